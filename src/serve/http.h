// What a request and a response are, apart from the connection that carries them.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tutti::serve {

using Headers = std::vector<std::pair<std::string, std::string>>;  // names in lower case

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // decoded by nobody: routes are plain ASCII
  std::string query;
  Headers headers;
  std::string body;

  // Of the first header of that name (lower case); empty when there is none.
  std::string_view header(std::string_view name) const {
    const auto it = std::ranges::find(headers, name, &std::pair<std::string, std::string>::first);
    return it == headers.end() ? std::string_view() : std::string_view(it->second);
  }
};

struct HttpResponse {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  Headers headers;
};

}  // namespace tutti::serve
