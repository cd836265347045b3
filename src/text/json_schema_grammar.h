// JSON Schema as a grammar: every text of the grammar is a document that the schema accepts (but
// where this page says so); not every document is in the grammar, as white space and the order of
// keys are fixed.
//
// Keywords: type (one or several), enum, const, properties, required, additionalProperties, items,
// prefixItems, minItems, maxItems, minLength, maxLength, pattern, format (date, time, date-time,
// uuid), minimum, maximum, exclusiveMinimum, exclusiveMaximum and multipleOf: 1 of integers, anyOf,
// oneOf (taken as anyOf: that only one matches is not enforced), allOf of one, $ref within the
// document, $defs, definitions, nullable; title, description, default, examples, $schema, $id,
// strict and the like say nothing. Anything else is refused by name, never ignored;
// so is what stands beside $ref, const, enum, anyOf, oneOf or allOf, but for the type of a const or
// enum.
#pragma once

#include <nlohmann/json.hpp>

#include "text/grammar_expression.h"

namespace tutti::text {

struct JsonSchemaLimits {
  int depth = 64;        // of nested schemas, references followed once each
  int schemas = 10'000;  // in all
  int white_space = 12;  // blanks after a line end, at most
  int digits = 16;       // of a number before its point
  int fraction = 24;     // and after it
};

// Throws Error(kUsage) naming the path within the schema: malformed; Error(kUnsupported): a keyword
// or combination that is not here; Error(kLimit).
GrammarRules json_schema_rules(const nlohmann::ordered_json& schema,
                               const JsonSchemaLimits& limits = {});

// Any JSON object ("json_object" of OpenAI's API).
GrammarRules json_object_rules(const JsonSchemaLimits& limits = {});

}  // namespace tutti::text
