#include "text/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

void syntax_error(int line, const std::string& message) {
  throw Error(ErrorKind::kBadFile, "chat template line " + std::to_string(line) + ": " + message);
}

namespace {

// \r\n and \r become \n; one newline at the very end is dropped.
std::string normalised(std::string_view source, bool drop_last) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (drop_last && !out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         uint8_t(c) >= 0x80;
}
bool is_decimal(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalised(source, true)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool looking_at(std::string_view s) const {
    return std::string_view(source_).substr(at_, s.size()) == s;
  }
  size_t after_space(size_t from) const {
    while (from < source_.size()) {
      size_t next = from;
      if (!is_space(decode_at(source_, next))) break;
      from = next;
    }
    return from;
  }
  void add(TokenKind kind, std::string text) {
    tokens_.push_back({kind, line_, std::move(text), 0, 0});
  }
  // Moves to `to`, counting lines; text lines start anew when what was passed ends with a newline.
  void advance(size_t to) {
    line_ += int(std::count(source_.begin() + long(at_), source_.begin() + long(to), '\n'));
    if (to > at_) line_start_ = source_[to - 1] == '\n';
    at_ = to;
  }

  // The end of "raw %}" or "endraw %}" when one follows at `from`, else npos.
  size_t raw_word(size_t from, std::string_view word, bool closing) const {
    from = after_space(from);
    if (std::string_view(source_).substr(from, word.size()) != word) return std::string::npos;
    from = after_space(from + word.size());
    const std::string_view rest = std::string_view(source_).substr(from);
    if (rest.starts_with("-%}")) return after_space(from + 3);
    if (closing && rest.starts_with("+%}")) return from + 3;
    if (!rest.starts_with("%}")) return std::string::npos;
    return closing && rest.substr(2).starts_with("\n") ? from + 3 : from + 2;
  }

  // Text before a tag: '-' strips all white space, blocks and comments strip their indentation.
  void add_text(std::string_view text, char sign, bool variable) {
    if (sign == '-') {
      text = strip(text, Side::kRight);
    } else if (sign != '+' && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t from = newline == std::string_view::npos ? 0 : newline + 1;
      if ((from > 0 || line_start_) && from < text.size() &&
          strip(text.substr(from), Side::kBoth).empty()) {
        text = text.substr(0, from);
      }
    }
    if (!text.empty()) add(TokenKind::kText, std::string(text));
  }

  void root() {
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : 0;
      if (next == '%' || next == '{' || next == '#') break;
      ++tag;
    }
    if (tag == std::string::npos) {
      add(TokenKind::kText, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    size_t after = tag + 2;
    char sign = 0;
    if (after < source_.size() && (source_[after] == '-' || source_[after] == '+'))
      sign = source_[after++];
    add_text(std::string_view(source_).substr(at_, tag - at_), sign, kind == '{');
    if (kind == '%') {
      if (const size_t raw = raw_word(after, "raw", false); raw != std::string::npos) {
        advance(raw);
        raw_block();
        return;
      }
    }
    advance(after);
    if (kind == '#') {
      comment();
    } else {
      add(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
      inside(kind == '%');
    }
  }

  void raw_block() {
    if (at_ == source_.size())
      return;  // jinja2 forgives a raw block or comment opened at the very end
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      size_t after = tag + 2;
      char sign = 0;
      if (after < source_.size() && (source_[after] == '-' || source_[after] == '+'))
        sign = source_[after++];
      const size_t end = raw_word(after, "endraw", true);
      if (end == std::string::npos) continue;
      add_text(std::string_view(source_).substr(at_, tag - at_), sign, false);
      advance(end);
      return;
    }
    syntax_error(line_, "missing {% endraw %}");
  }

  void comment() {
    if (at_ == source_.size()) return;
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) syntax_error(line_, "missing end of comment tag '#}'");
    const char sign = end > at_ ? source_[end - 1] : 0;
    size_t after = end + 2;
    if (sign == '-') {
      after = after_space(after);
    } else if (sign != '+' && after < source_.size() && source_[after] == '\n') {
      ++after;
    }
    advance(after);
  }

  // The closing tag, if here: its length in bytes, white space to drop included.
  size_t closing(bool block) const {
    const std::string_view end = block ? "%}" : "}}";
    const std::string_view rest = std::string_view(source_).substr(at_);
    if (rest.starts_with('-') && rest.substr(1).starts_with(end)) return after_space(at_ + 3) - at_;
    if (block && rest.starts_with('+') && rest.substr(1).starts_with(end)) return 3;
    if (!rest.starts_with(end)) return 0;
    return block && rest.substr(2).starts_with("\n") ? 3 : 2;
  }

  void inside(bool block) {
    std::string open;  // brackets to be closed
    while (true) {
      if (at_ >= source_.size()) syntax_error(line_, "the template ends inside a tag");
      if (open.empty()) {
        if (const size_t n = closing(block)) {
          add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          advance(at_ + n);
          return;
        }
      }
      if (const size_t next = after_space(at_); next != at_) {
        advance(next);
      } else if (is_decimal(source_[at_])) {
        number();
      } else if (is_name_byte(source_[at_])) {
        size_t end = at_;
        while (end < source_.size() && is_name_byte(source_[end])) ++end;
        add(TokenKind::kName, source_.substr(at_, end - at_));
        advance(end);
      } else if (source_[at_] == '"' || source_[at_] == '\'') {
        string();
      } else {
        operator_token(open);
      }
    }
  }

  void operator_token(std::string& open) {
    static constexpr std::string_view kOperators[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view op : kOperators) {
      if (!looking_at(op)) continue;
      if (op == "(" || op == "[" || op == "{") {
        open += op == "(" ? ')' : op == "[" ? ']' : '}';
      } else if (op == ")" || op == "]" || op == "}") {
        if (open.empty() || open.back() != op[0])
          syntax_error(line_, "unexpected '" + std::string(op) + "'");
        open.pop_back();
      }
      add(TokenKind::kOperator, std::string(op));
      advance(at_ + op.size());
      return;
    }
    syntax_error(line_, std::string("unexpected character '") + source_[at_] + "'");
  }

  // Digits with single underscores between them; `from` unchanged when there is none.
  size_t digits(size_t from) const {
    if (from >= source_.size() || !is_decimal(source_[from])) return from;
    while (from < source_.size() &&
           (is_decimal(source_[from]) ||
            (source_[from] == '_' && from + 1 < source_.size() && is_decimal(source_[from + 1])))) {
      ++from;
    }
    return from;
  }

  void number() {
    const auto peek = [&](size_t i) { return i < source_.size() ? source_[i] : '\0'; };
    const size_t whole = digits(at_);
    size_t end = whole;
    if (peek(end) == '.') end = std::max(end, digits(end + 1) > end + 1 ? digits(end + 1) : end);
    if (peek(end) == 'e' || peek(end) == 'E') {
      const size_t sign = end + 1 + (peek(end + 1) == '+' || peek(end + 1) == '-');
      if (digits(sign) > sign) end = digits(sign);
    }
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (end > whole && !after_dot) {
      std::string text = source_.substr(at_, end - at_);
      std::erase(text, '_');
      add(TokenKind::kFloat, text);
      double value = 0;
      const auto [_, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error == std::errc::result_out_of_range)
        value = text.find("e-") == std::string::npos && text.find("E-") == std::string::npos
                    ? HUGE_VAL
                    : 0;
      tokens_.back().real = value;
      advance(end);
      return;
    }
    int base = 10;
    size_t from = at_;
    end = whole;
    const char mark = char(peek(at_ + 1) | 0x20);
    if (source_[at_] == '0' && (mark == 'x' || mark == 'o' || mark == 'b')) {
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
      from = at_ + 2;
      const std::string_view allowed =
          std::string_view("0123456789abcdefABCDEF").substr(0, base == 16 ? 22 : size_t(base));
      end = from;
      while (end < source_.size() &&
             (allowed.find(source_[end]) != std::string_view::npos || source_[end] == '_'))
        ++end;
      if (end == from) {
        base = 10;
        from = at_;
        end = at_ + 1;
      }
    } else if (source_[at_] ==
               '0') {  // 007 is three numbers to jinja2, and so an error to its parser
      end = at_ + 1;
      while (peek(end) == '0') ++end;
    }
    std::string text = source_.substr(from, end - from);
    std::erase(text, '_');
    add(TokenKind::kInteger, text);
    const auto [_, error] =
        std::from_chars(text.data(), text.data() + text.size(), tokens_.back().integer, base);
    if (error != std::errc()) syntax_error(line_, "the integer " + text + " does not fit 64 bits");
    advance(end);
  }

  void string() {
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) syntax_error(line_, "a string without end");
    add(TokenKind::kString, unescaped(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  std::string unescaped(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\' || i + 1 >= raw.size()) {
        out += raw[i];
        continue;
      }
      const char c = raw[++i];
      static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t simple = kFrom.find(c); simple != std::string_view::npos) {
        out += kTo[simple];
      } else if (c == '\n') {  // continues on the next line
      } else if (c >= '0' && c <= '7') {
        uint32_t value = 0;
        size_t n = 0;
        for (; n < 3 && i + n < raw.size() && raw[i + n] >= '0' && raw[i + n] <= '7'; ++n) {
          value = value * 8 + uint32_t(raw[i + n] - '0');
        }
        append_utf8(out, value);
        i += n - 1;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        const std::string_view hex = raw.substr(i + 1, n);
        uint32_t value = 0;
        const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
        if (hex.size() < n || error != std::errc() || end != hex.data() + n || value > 0x10ffff ||
            (value >= 0xd800 && value < 0xe000)) {
          syntax_error(line_, "a string has an escape that is no character");
        }
        append_utf8(out, value);
        i += n;
      } else if (c == 'N') {
        syntax_error(line_, "named characters (\\N{...}) are not known; write \\u and the number");
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenise(std::string_view source) { return Lexer(source).run(); }

}  // namespace tutti::text::jinja
