// JSON of model folders, read strictly: no duplicate keys, bounded nesting, nothing after the
// value.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tutti::formats {

// `name` stands for the file in errors. A level is an array or an object; deeper ones than `depth`
// are refused, since later walks over the value recurse. Throws Error(kBadFile) with the line.
nlohmann::json parse_json(std::string_view text, const std::string& name, int depth = 64);

// On one line; bytes that are no UTF-8 become U+FFFD.
inline std::string print_json(const nlohmann::ordered_json& j) {
  return j.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tutti::formats
