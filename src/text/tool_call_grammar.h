// A text that must be a call of a function: how the prompt begins it, and the grammar of the rest.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "text/grammar_expression.h"
#include "text/tool_call_parser.h"

namespace tutti::text {

struct ToolFunction {
  std::string name;
  nlohmann::ordered_json parameters;  // a JSON schema of an object; null: there are none
};

// A call of one of `functions` in the format; more of them, if `several` and the format's marks are
// plain text.
struct ToolCallRule {
  ToolFormat format = ToolFormat::kHermes;
  std::vector<ToolFunction> functions;
  bool several = false;

  // As one text, to be kept and compared; parse() reads it. Throws Error(kUsage).
  std::string text() const;
  static ToolCallRule parse(const std::string& text);

  // What goes behind the prompt: marks are control tokens in many vocabularies, which no grammar
  // over bytes can write.
  std::string opening() const;
  // The same for the parser of the text.
  OpenedCall opened() const;
};

// Throws what a function's schema has against itself, its name in front: Error(kUsage |
// kUnsupported | kLimit).
GrammarRules tool_call_rules(const ToolCallRule& rule);

}  // namespace tutti::text
