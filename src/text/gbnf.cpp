#include "text/gbnf.h"

#include <map>

#include "text/regex_grammar.h"
#include "text/text_scan.h"

namespace tutti::text {
namespace {

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : scan_(text, "grammar") {}

  GrammarRules parse() {
    for (space(true); !scan_.done(); space(true)) {
      const int index = rule_of(name());
      space(false);
      if (!scan_.take("::=")) scan_.fail("wants ::=");
      space(true);
      if (rules_.bodies[size_t(index)])
        scan_.fail("defines rule " + rules_.names[size_t(index)] + " twice");
      rules_.bodies[size_t(index)] = alternatives(0);
      if (!scan_.done() && scan_.peek() != '\n' && scan_.peek() != '\r')
        scan_.fail("wants the end of the line");
    }
    const auto root = index_.find("root");
    if (root == index_.end())
      throw Error(ErrorKind::kUsage, "grammar: has no rule root; name the first one so");
    rules_.root = root->second;
    return std::move(rules_);
  }

 private:
  // Blanks and comments; with `lines` also line ends.
  void space(bool lines) {
    for (;;) {
      const char c = scan_.peek();
      if (scan_.done()) return;
      if (c == '#') {
        while (!scan_.done() && scan_.peek() != '\n') scan_.skip();
      } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        scan_.skip();
      } else {
        return;
      }
    }
  }

  std::string name() {
    std::string out;
    for (; is_name(scan_.peek()); scan_.skip()) out += scan_.peek();
    if (out.empty()) scan_.fail("wants the name of a rule");
    return out;
  }

  int rule_of(const std::string& name) {
    const auto [it, fresh] = index_.try_emplace(name, int(rules_.names.size()));
    if (fresh) rules_.add(name);
    return it->second;
  }

  ExpressionPtr alternatives(int depth) {
    if (depth > kMostNested) scan_.fail("is nested too deeply");
    std::vector<ExpressionPtr> choices{series(depth)};
    // An alternative may begin on a line of its own.
    for (;;) {
      const TextScan before = scan_;
      space(true);
      if (!scan_.take("|")) {
        if (depth == 0) scan_ = before;
        break;
      }
      space(true);
      choices.push_back(series(depth));
    }
    return choice(std::move(choices));
  }

  ExpressionPtr series(int depth) {
    std::vector<ExpressionPtr> parts;
    for (;;) {
      space(depth > 0);
      const char c = scan_.peek();
      ExpressionPtr one;
      if (c == '"') {
        one = quoted();
      } else if (c == '[') {
        one = bracket();
      } else if (scan_.take("(")) {
        space(true);
        one = alternatives(depth + 1);
        space(true);
        if (!scan_.take(")")) scan_.fail("has a '(' that is not closed");
      } else if (scan_.take(".")) {
        one = none_of({});
      } else if (is_name(c)) {
        const TextScan before = scan_;
        const std::string called = name();
        space(false);
        if (scan_.peek() == ':' &&
            scan_.peek(1) == ':') {  // the next rule, after a line end inside a group
          scan_ = before;
          break;
        }
        one = rule(rule_of(called));
      } else {
        break;
      }
      parts.push_back(repeated(std::move(one)));
    }
    if (parts.empty()) return literal("");
    return sequence(std::move(parts));
  }

  ExpressionPtr repeated(ExpressionPtr one) {
    for (int n = 0;; ++n) {
      if (n > kMostStacked) scan_.fail("has too many repetitions of one thing");
      const TextScan before = scan_;
      space(false);
      if (scan_.take("*")) {
        one = repeat(std::move(one), 0);
      } else if (scan_.take("+")) {
        one = repeat(std::move(one), 1);
      } else if (scan_.take("?")) {
        one = optional(std::move(one));
      } else if (scan_.take("{")) {
        space(false);
        const int least = scan_.peek() == ',' ? 0 : scan_.number(kMostRepeats + 1);
        int most = least;
        space(false);
        if (scan_.take(",")) {
          space(false);
          most = scan_.peek() == '}' ? -1 : scan_.number(kMostRepeats + 1);
          space(false);
        }
        if (!scan_.take("}")) scan_.fail("wants a }");
        if (most >= 0 && most < least)
          scan_.fail("has a repetition whose limits are the wrong way round");
        one = repeat(std::move(one), least, most);
      } else {
        scan_ = before;
        return one;
      }
    }
  }

  uint32_t point() {
    if (!scan_.take("\\")) return scan_.code_point();
    const char c = scan_.peek();
    scan_.skip();
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'x':
        return scan_.hex(2);
      case 'u':
        return scan_.hex(4);
      case 'U':
        return scan_.hex(8);
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
        return uint32_t(c);
      default:
        scan_.fail("has an escape that is not known");
    }
  }

  ExpressionPtr quoted() {
    scan_.skip();
    std::vector<ExpressionPtr> parts;
    while (!scan_.take("\"")) {
      if (scan_.done() || scan_.peek() == '\n') scan_.fail("has a \" that is not closed");
      const uint32_t c = point();
      parts.push_back(any_of({{c, c}}));
    }
    return parts.empty() ? literal("") : sequence(std::move(parts));
  }

  ExpressionPtr bracket() {
    scan_.skip();
    const bool negated = scan_.take("^");
    CodePoints ranges;
    while (!scan_.take("]")) {
      if (scan_.done() || scan_.peek() == '\n') scan_.fail("has a [ that is not closed");
      const uint32_t low = point();
      uint32_t high = low;
      if (scan_.peek() == '-' && scan_.peek(1) != ']') {
        scan_.skip();
        high = point();
        if (high < low) scan_.fail("has a range that is the wrong way round");
      }
      ranges.emplace_back(low, high);
    }
    return negated ? none_of(std::move(ranges)) : any_of(std::move(ranges));
  }

  TextScan scan_;
  GrammarRules rules_;
  std::map<std::string, int> index_;
};

}  // namespace

GrammarRules parse_gbnf(std::string_view text) { return Parser(text).parse(); }

}  // namespace tutti::text
