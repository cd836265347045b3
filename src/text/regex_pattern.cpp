// Rewrites a pattern of oniguruma's Ruby syntax for PCRE2.
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "text/regex.h"

namespace tutti::text {
namespace {

// Code points that Unicode 15.0 to 16.0 assigned, by general category, as members of a character
// class. PCRE2 10.42 knows Unicode 14, newer ones know them already: naming them twice does no
// harm.
constexpr std::pair<std::string_view, std::string_view> kAdditions[] = {
#include "text/regex_additions.inc"
};

constexpr std::string_view kWhiteSpace =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

[[noreturn]] void refuse(std::string_view pattern, std::string_view what) {
  throw Error(ErrorKind::kUnsupported, "regular expression \"" + std::string(pattern) +
                                           "\": " + std::string(what) + " is not supported");
}

std::string category(std::string_view name, bool wide) {
  std::string members = "\\p{" + std::string(name) + "}";
  if (!wide) return members;
  for (const auto& [added, ranges] : kAdditions) {
    if (added == name) members += ranges;
  }
  return members;
}

std::string word_members(bool wide) {
  return category("L", wide) + category("M", wide) + category("Nd", wide) + category("Pc", wide);
}

}  // namespace

std::string escape_pattern(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string pcre_pattern(std::string_view pattern, bool wide) {
  std::string out;
  bool in_class = false;
  size_t class_begin = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      if (next == '\0') refuse(pattern, "a backslash at the end");
      ++i;
      std::string members;
      bool negated = false;
      if (next == 's' || next == 'S') {
        members = kWhiteSpace;
        negated = next == 'S';
      } else if (next == 'w' || next == 'W') {
        members = word_members(wide);
        negated = next == 'W';
      } else if (next == 'd' || next == 'D') {
        members = category("Nd", wide);
        negated = next == 'D';
      } else if (next == 'p' || next == 'P') {
        size_t close = pattern.find('}', i);
        if (i + 1 >= pattern.size() || pattern[i + 1] != '{' || close == std::string_view::npos) {
          refuse(pattern, "\\p without braces");
        }
        std::string_view name = pattern.substr(i + 2, close - i - 2);
        negated = next == 'P';
        if (name.starts_with('^')) {
          negated = !negated;
          name.remove_prefix(1);
        }
        members = category(name, wide);
        i = close;
      } else if (next == 'h' || next == 'H' || next == 'R' || next == 'X' || next == 'Z' ||
                 next == 'G' || next == 'K' || next == 'g' || next == 'k' || next == 'C' ||
                 next == 'Q' || next == 'E') {
        // These mean something else in Ruby, or nothing a tokenizer needs.
        refuse(pattern, std::string("\\") + next);
      } else {
        out += c;
        out += next;
        continue;
      }
      if (!in_class) {
        out += (negated ? "[^" : "[") + members + "]";
      } else if (!negated) {
        out += members;
      } else if (next == 'P' && !wide) {
        out += "\\P" + members.substr(2);
      } else if (next == 'S') {
        // The complement of white space as ranges, so that it can stand among other members.
        out +=
            R"(\x00-\x08\x0E-\x1F!-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
            R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
      } else {
        refuse(pattern, std::string("\\") + next + " inside a class");
      }
      continue;
    }
    if (in_class) {
      if (c == '&' && next == '&') refuse(pattern, "an intersection of classes");
      if (c == '[' && next != ':') refuse(pattern, "a class inside a class");
      if (c == '[') {
        const size_t close = pattern.find(":]", i + 2);
        if (close == std::string_view::npos) refuse(pattern, "an unclosed [:name:]");
        out += pattern.substr(i, close + 2 - i);
        i = close + 1;
        continue;
      }
      if (c == ']' && i > class_begin) in_class = false;
    } else if (c == '[') {
      in_class = true;
      class_begin = next == '^' ? i + 2 : i + 1;
      out += c;
      if (next == '^') {
        out += next;
        ++i;
      }
      continue;
    } else if (c == '(' && next == '*') {
      refuse(pattern, "a verb (*...)");
    }
    out += c;
  }
  return out;
}

}  // namespace tutti::text
