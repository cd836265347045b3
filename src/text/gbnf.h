// GBNF, llama.cpp's notation of grammars: rules `name ::= …` of literals, classes, groups,
// repetitions and alternatives.
#pragma once

#include <string_view>

#include "text/grammar_expression.h"

namespace tutti::text {

// The rule `root` is the language. Throws Error(kUsage) naming the place or the rule.
GrammarRules parse_gbnf(std::string_view text);

}  // namespace tutti::text
