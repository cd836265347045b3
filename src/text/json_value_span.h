// Where a JSON value ends in a text that comes piece by piece.
#pragma once

#include <string>

namespace tutti::text {

inline bool is_json_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// Brackets and strings are followed; what stands between them is not checked, since models write
// True and None, too. Only the marks behind a call ("<…>", "```") end a value whose brackets do
// not.
class JsonValueSpan {
 public:
  enum class Step {
    kInside,  // the character belongs to the value, which goes on
    kLast,    // … which ends with it
    kBehind,  // a number, true, false or null ended before it
    kBad,     // no value holds it
  };
  Step push(char c) {
    if (in_string_) return string_character(c);
    if (kind_ == 0) return first(c);
    if (open_.empty())
      return is_json_blank(c) || c == ',' || c == '}' || c == ']' ? Step::kBehind
             : scalar(c)                                          ? Step::kInside
                                                                  : Step::kBad;
    if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      if (open_.size() >= kDeepest) return Step::kBad;
      open_ += c;
    } else if (c == '}' || c == ']') {
      if (open_.back() != (c == '}' ? '{' : '[')) return Step::kBad;
      open_.pop_back();
      if (open_.empty()) return Step::kLast;
    } else if (c == '<' || c == '`') {
      return Step::kBad;
    }
    return Step::kInside;
  }
  char kind() const { return kind_; }  // its first character; 0: not begun

 private:
  static constexpr size_t kDeepest = 256;
  static bool scalar(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E' || c == '-' || c == '+' ||
           c == '.';
  }
  Step first(char c) {
    kind_ = c;
    if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      open_ += c;
    } else if (!scalar(c)) {
      return Step::kBad;
    }
    return Step::kInside;
  }
  Step string_character(char c) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
      if (open_.empty()) return Step::kLast;
    }
    return Step::kInside;
  }

  char kind_ = 0;
  std::string open_;  // brackets
  bool in_string_ = false, escaped_ = false;
};

}  // namespace tutti::text
