#include "text/regex_grammar.h"

#include <optional>

#include "text/text_scan.h"

namespace tutti::text {
namespace {

const CodePoints kDigits{{'0', '9'}};
const CodePoints kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePoints kSpace{{'\t', '\r'}, {' ', ' '}};

// Of "\d" and the like; null: `c` names no class.
ExpressionPtr class_named(char c) {
  switch (c) {
    case 'd':
      return any_of(kDigits);
    case 'w':
      return any_of(kWord);
    case 's':
      return any_of(kSpace);
    case 'D':
      return none_of(kDigits);
    case 'W':
      return none_of(kWord);
    case 'S':
      return none_of(kSpace);
    default:
      return nullptr;
  }
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : scan_(pattern, "regular expression") {}

  ExpressionPtr whole(bool search) {
    const bool from_start = scan_.take("^");
    ExpressionPtr body = alternatives(0);
    if (!scan_.done()) scan_.fail("has a ')' too many");
    if (!search) return body;
    const ExpressionPtr anything = repeat(none_of({}), 0);
    std::vector<ExpressionPtr> parts;
    if (!from_start) parts.push_back(anything);
    parts.push_back(body);
    if (!to_end_) parts.push_back(anything);
    return sequence(std::move(parts));
  }

 private:
  ExpressionPtr alternatives(int depth) {
    if (depth > kMostNested) scan_.fail("is nested too deeply");
    std::vector<ExpressionPtr> choices{series(depth)};
    while (scan_.take("|")) choices.push_back(series(depth));
    return choice(std::move(choices));
  }

  ExpressionPtr series(int depth) {
    std::vector<ExpressionPtr> parts;
    while (!scan_.done() && scan_.peek() != '|' && scan_.peek() != ')') {
      if (scan_.peek() == '$') {
        scan_.skip();
        if (!scan_.done() || depth > 0) scan_.fail("has a $ that is not at the end");
        to_end_ = true;
        break;
      }
      ExpressionPtr one = atom(depth);
      for (int n = 0;; ++n) {
        int least = 0, most = -1;
        if (!repetition(least, most)) break;
        if (n == kMostStacked) scan_.fail("has too many repetitions of one thing");
        one = repeat(std::move(one), least, most);
      }
      parts.push_back(std::move(one));
    }
    if (parts.empty()) return literal("");
    return sequence(std::move(parts));
  }

  bool repetition(int& least, int& most) {
    if (scan_.take("*")) {
    } else if (scan_.take("+")) {
      least = 1;
    } else if (scan_.take("?")) {
      most = 1;
    } else if (scan_.peek() == '{' &&
               ((scan_.peek(1) >= '0' && scan_.peek(1) <= '9') || scan_.peek(1) == ',')) {
      scan_.skip();
      // Python reads {,3} as up to three, ECMAScript as itself.
      if (scan_.peek() == ',') scan_.fail("has a repetition without its least number; write {0,n}");
      least = most = scan_.number(kMostRepeats + 1);
      if (scan_.take(",")) most = scan_.peek() == '}' ? -1 : scan_.number(kMostRepeats + 1);
      if (!scan_.take("}")) scan_.fail("wants a }");
      if (most >= 0 && most < least)
        scan_.fail("has a repetition whose limits are the wrong way round");
    } else {
      return false;
    }
    scan_.take("?");  // whichever is tried first, the language is the same
    return true;
  }

  ExpressionPtr atom(int depth) {
    if (scan_.take("(")) {
      if (scan_.take("?")) {
        if (!scan_.take(":")) scan_.fail("has a group that is not supported; use (…) or (?:…)");
      }
      ExpressionPtr inner = alternatives(depth + 1);
      if (!scan_.take(")")) scan_.fail("has a '(' that is not closed");
      return inner;
    }
    if (scan_.take("[")) return bracket();
    if (scan_.take(".")) return none_of({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}});
    const char c = scan_.peek();
    if (c == '*' || c == '+' || c == '?') scan_.fail("has a repetition of nothing");
    if (c == '^') scan_.fail("has a ^ that is not at the beginning");
    if (scan_.take("\\")) {
      if (ExpressionPtr named = class_named(scan_.peek())) {
        scan_.skip();
        return named;
      }
      const uint32_t escape = escaped();
      return any_of({{escape, escape}});
    }
    const uint32_t point = scan_.code_point();
    return any_of({{point, point}});
  }

  uint32_t escaped() {
    const char c = scan_.peek();
    if ((c >= '1' && c <= '9') || c == 'k')
      scan_.fail("has a back reference, which no grammar can follow");
    if (c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z')
      scan_.fail("has an anchor that is not supported; use ^ and $");
    if (c == 'p' || c == 'P') scan_.fail("has a Unicode class that is not supported; write ranges");
    if (scan_.done()) scan_.fail("ends in a backslash");
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '0';
    if (!letter) return scan_.code_point();
    scan_.skip();
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case '0':
        return 0;
      case 'x':
        return scan_.hex(2);
      case 'u':
        return scan_.hex(4);
      default:
        scan_.fail("has an escape that is not known");
    }
  }

  ExpressionPtr bracket() {
    const bool negated = scan_.take("^");
    CodePoints ranges;
    for (bool first = true; first || scan_.peek() != ']'; first = false) {
      if (scan_.done()) scan_.fail("has a [ that is not closed");
      if (first && scan_.peek() == ']') break;
      const auto low = point_or_class(ranges);
      if (!low) continue;
      if (scan_.peek() == '-' && scan_.peek(1) != ']' && scan_.peek(1) != '\0') {
        scan_.skip();
        CodePoints none;
        const auto high = point_or_class(none);
        if (!high || *high < *low) scan_.fail("has a range that is the wrong way round");
        ranges.emplace_back(*low, *high);
      } else {
        ranges.emplace_back(*low, *low);
      }
    }
    scan_.skip();
    return negated ? none_of(std::move(ranges)) : any_of(std::move(ranges));
  }

  // A code point; or nothing, and a class added to `ranges`.
  std::optional<uint32_t> point_or_class(CodePoints& ranges) {
    if (!scan_.take("\\")) return scan_.code_point();
    if (const ExpressionPtr named = class_named(scan_.peek())) {
      scan_.skip();
      ranges.insert(ranges.end(), named->ranges.begin(), named->ranges.end());
      return std::nullopt;
    }
    if (scan_.take("b")) return '\b';
    if (scan_.take("-")) return '-';
    return escaped();
  }

  TextScan scan_;
  bool to_end_ = false;
};

}  // namespace

ExpressionPtr regex_expression(std::string_view pattern, bool search) {
  return Parser(pattern).whole(search);
}

}  // namespace tutti::text
