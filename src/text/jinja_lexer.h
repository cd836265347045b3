// Splits a template into text, tags and the tokens inside tags, as jinja2 does with trim_blocks and
// lstrip_blocks on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::text::jinja {

enum class TokenKind : uint8_t {
  kText,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // of an operator or name its spelling, of a string its unescaped value
  int64_t integer = 0;
  double real = 0;
};

// Throws Error(kBadFile) naming the line.
std::vector<Token> tokenise(std::string_view source);

[[noreturn]] void syntax_error(int line, const std::string& message);

}  // namespace tutti::text::jinja
