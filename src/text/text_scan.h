// A place in a text that is being parsed: what GBNF and regular expressions share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tutti::text {

inline constexpr int kMostNested = 100;  // groups within groups
inline constexpr int kMostStacked = 8;   // repetitions of a repetition

class TextScan {
 public:
  TextScan(std::string_view text, std::string what) : text_(text), what_(std::move(what)) {}

  bool done() const { return at_ >= text_.size(); }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  size_t at() const { return at_; }
  void skip(size_t n = 1) { at_ += n; }

  // Throws Error(kUsage) that names the place.
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(ErrorKind::kUsage, what_ + ", character " + std::to_string(at_ + 1) + ": " + why);
  }

  // One code point. Throws where the text is no UTF-8.
  uint32_t code_point() {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(peek(i)); };
    const unsigned char lead = byte(0);
    const int n = lead < 0x80                   ? 1
                  : lead >= 0xC2 && lead < 0xE0 ? 2
                  : (lead & 0xF0) == 0xE0       ? 3
                  : lead >= 0xF0 && lead < 0xF5 ? 4
                                                : 0;
    if (done() || n == 0 || at_ + size_t(n) > text_.size()) fail("is no UTF-8");
    uint32_t c = n == 1 ? lead : lead & (0xFF >> (n + 1));
    for (int i = 1; i < n; ++i) {
      if ((byte(size_t(i)) & 0xC0) != 0x80) fail("is no UTF-8");
      c = (c << 6) | (byte(size_t(i)) & 0x3F);
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) || (n == 3 && c < 0x800) ||
        (n == 4 && c < 0x10000))
      fail("is no UTF-8");
    at_ += size_t(n);
    return c;
  }
  // `digits` hexadecimal digits.
  uint32_t hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("wants " + std::to_string(digits) + " hexadecimal digits");
      value = value * 16 + uint32_t(digit);
      skip();
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) fail("is no code point");
    return value;
  }
  // A number below `limit`.
  int number(int limit) {
    if (peek() < '0' || peek() > '9') fail("wants a number");
    int64_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; skip()) {
      value = value * 10 + (peek() - '0');
      if (value >= limit)
        fail("is a number that is too large; the limit is " + std::to_string(limit - 1));
    }
    return int(value);
  }

 private:
  std::string_view text_;
  std::string what_;
  size_t at_ = 0;
};

}  // namespace tutti::text
