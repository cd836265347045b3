#include "eval/load/server_address.h"

#include <algorithm>

#include "base/error.h"

namespace tutti::eval {

std::string ServerAddress::host_and_port() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + port;
}

ServerAddress parse_server_url(std::string_view url) {
  const auto bad = [&](const char* why) {
    return Error(ErrorKind::kUsage, std::string(url) + ": " + why);
  };
  std::string_view rest = url;
  constexpr std::string_view kHttp = "http://", kHttps = "https://";
  if (rest.starts_with(kHttps))
    throw bad("https is not spoken here; give the http address behind the proxy");
  if (rest.starts_with(kHttp)) rest.remove_prefix(kHttp.size());
  if (rest.find("://") != std::string_view::npos) throw bad("is no http address");
  ServerAddress address;
  const size_t slash = rest.find('/');
  std::string_view place = rest.substr(0, slash);
  if (slash != std::string_view::npos) address.root = std::string(rest.substr(slash));
  const auto plain = [](char c) { return c > ' ' && c < 127 && c != '?' && c != '#'; };
  if (!std::ranges::all_of(address.root, plain)) throw bad("has a path that is none");
  while (address.root.ends_with('/')) address.root.pop_back();
  constexpr std::string_view kVersion = "/v1";
  if (address.root.ends_with(kVersion)) address.root.resize(address.root.size() - kVersion.size());
  size_t colon = place.rfind(':');
  if (place.starts_with('[')) {
    const size_t close = place.find(']');
    if (close == std::string_view::npos) throw bad("has a bracket that is not closed");
    address.host = std::string(place.substr(1, close - 1));
    if (close + 1 < place.size() && place[close + 1] != ':') throw bad("wants :PORT after ]");
    colon = close + 1 < place.size() ? close + 1 : std::string_view::npos;
  } else {
    address.host = std::string(place.substr(0, colon));
  }
  if (colon != std::string_view::npos) {
    address.port = std::string(place.substr(colon + 1));
    const bool digits =
        !address.port.empty() && address.port.size() <= 5 &&
        std::ranges::all_of(address.port, [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || std::stoi(address.port) < 1 || std::stoi(address.port) > 65535)
      throw bad("has no port from 1 to 65535 after the colon");
  }
  const bool named = !address.host.empty() && std::ranges::all_of(address.host, [](char c) {
    return c > ' ' && c < 127 && c != '@' && c != '/';
  });
  if (!named) throw bad("names no host; give http://HOST:PORT");
  return address;
}

}  // namespace tutti::eval
