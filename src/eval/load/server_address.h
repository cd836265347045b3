// Where a server with OpenAI's API is.
#pragma once

#include <string>
#include <string_view>

namespace tutti::eval {

struct ServerAddress {
  std::string host;
  std::string port = "80";
  std::string root;  // of its paths, without "/v1" and without a slash at the end; often empty

  std::string host_and_port() const;
};

// "http://127.0.0.1:8080", "http://host/prefix/v1", "host:8080", "[::1]:8080". Throws Error(kUsage)
// that says what is wrong with it; of https, that it is not spoken.
ServerAddress parse_server_url(std::string_view url);

}  // namespace tutti::eval
