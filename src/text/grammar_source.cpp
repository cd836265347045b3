#include "text/grammar_source.h"

#include "base/error.h"
#include "text/gbnf.h"
#include "text/json_schema_grammar.h"
#include "text/regex_grammar.h"
#include "text/tool_call_grammar.h"

namespace tutti::text {

GrammarRules rules_of(const GrammarSource& source) {
  GrammarRules rules;
  switch (source.kind) {
    case GrammarSource::kGbnf:
      return parse_gbnf(source.text);
    case GrammarSource::kRegex:
      rules.add("root", regex_expression(source.text));
      return rules;
    case GrammarSource::kJsonObject:
      return json_object_rules();
    case GrammarSource::kJsonSchema:
      try {
        return json_schema_rules(
            nlohmann::ordered_json::parse(source.text, [](int depth, auto, auto&) {
              if (depth > 256)
                throw Error(ErrorKind::kLimit, "schema: is nested deeper than 256 levels");
              return true;
            }));
      } catch (const nlohmann::json::parse_error&) {
        throw Error(ErrorKind::kUsage, "schema: is no JSON");
      }
    case GrammarSource::kToolCalls:
      return tool_call_rules(ToolCallRule::parse(source.text));
    case GrammarSource::kChoice:
      break;
  }
  if (source.choices.empty())
    throw Error(ErrorKind::kUsage, "choices: there is none; give at least one");
  std::vector<ExpressionPtr> choices;
  for (const std::string& one : source.choices) choices.push_back(literal(one));
  rules.add("root", choice(std::move(choices)));
  return rules;
}

}  // namespace tutti::text
