// JSON as the program reads it from lines and prints it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "formats/json_text.h"

namespace tutti::cli {

// Throws Error(kUsage) that names the byte where `text` stops being JSON.
inline nlohmann::ordered_json parse_json(std::string_view text) {
  try {
    return nlohmann::ordered_json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    // Without the library's "[json.exception.parse_error.101] " in front.
    std::string what = error.what();
    if (const size_t bracket = what.find("] "); bracket != std::string::npos)
      what.erase(0, bracket + 2);
    for (char& c : what) {
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    }
    throw Error(ErrorKind::kUsage, "is not JSON: " + what);
  }
}

using formats::print_json;

}  // namespace tutti::cli
