// Times on the command line: in seconds, or as multiples of what one request takes alone.
#pragma once

#include <charconv>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tutti::cli {

// "0.25" seconds, or "0.5x" of a lone request's time. Throws Error(kUsage) that begins with
// `option`.
inline double seconds_of(const std::string& text, const char* option, double lone) {
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view rest(read.ptr, size_t(text.data() + text.size() - read.ptr));
  if (read.ec != std::errc() || (!rest.empty() && rest != "x") || !(value >= 0) || value > 1e6) {
    throw Error(
        ErrorKind::kUsage,
        std::string(option) + " " + text +
            ": give seconds, such as 0.25, or a multiple of a lone request's time, such as 0.5x");
  }
  return rest == "x" ? value * lone : value;
}

}  // namespace tutti::cli
