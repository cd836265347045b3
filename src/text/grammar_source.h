// A constraint on a text as users give it: a grammar, an expression, a schema, or a list of
// choices.
#pragma once

#include <string>
#include <vector>

#include "text/grammar_expression.h"

namespace tutti::text {

struct GrammarSource {
  enum Kind : uint8_t { kGbnf, kRegex, kJsonSchema, kJsonObject, kChoice, kToolCalls } kind = kGbnf;
  // kGbnf, kRegex; kJsonSchema: JSON; kToolCalls: what ToolCallRule::text() writes
  std::string text;
  std::vector<std::string> choices;  // kChoice: one of these, as it stands

  auto operator<=>(const GrammarSource&) const = default;
};

// Throws Error(kUsage | kUnsupported | kLimit) that says what is wrong with it, and where.
GrammarRules rules_of(const GrammarSource& source);

}  // namespace tutti::text
