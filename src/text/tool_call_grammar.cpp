#include "text/tool_call_grammar.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "text/json_schema_grammar.h"

namespace tutti::text {

using Json = nlohmann::ordered_json;

namespace {

constexpr std::string_view kFence = "\n```json\n";

// Whether the format writes a name before the arguments, instead of an object that holds both.
bool name_first(ToolFormat format) {
  return format == ToolFormat::kMistralArgs || format == ToolFormat::kDeepSeekV3 ||
         format == ToolFormat::kDeepSeekV31;
}

constexpr int kDeepest = 64;  // of references and choices, as json_schema_rules has it

// Whether every value of `schema`, which json_schema_rules has taken, is an object. `seen`:
// references that were followed; one that comes again adds no values.
bool holds_objects_only(const Json& schema, const Json& document, std::set<std::string>& seen,
                        int depth = 0) {
  if (!schema.is_object() || depth > kDeepest) return false;
  if (const auto null = schema.find("nullable"); null != schema.end() && *null == true)
    return false;
  const auto below = [&](const Json& one) {
    return holds_objects_only(one, document, seen, depth + 1);
  };
  if (const auto ref = schema.find("$ref"); ref != schema.end()) {
    const std::string target = ref->get<std::string>();
    return !seen.insert(target).second || below(document.at(Json::json_pointer(target.substr(1))));
  }
  if (const auto value = schema.find("const"); value != schema.end()) return value->is_object();
  if (const auto values = schema.find("enum"); values != schema.end())
    return std::ranges::all_of(*values, [](const Json& value) { return value.is_object(); });
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    if (const auto parts = schema.find(key); parts != schema.end())
      return std::ranges::all_of(*parts, below);
  }
  if (const auto type = schema.find("type"); type != schema.end()) return *type == "object";
  return schema.contains("properties") || schema.contains("required") ||
         schema.contains("additionalProperties");
}

// The schema of a function's arguments, which are an object even where it does not say so.
Json schema_of_object(Json schema, const std::string& place) {
  if (!schema.is_object())
    throw Error(ErrorKind::kUsage, place + "parameters must be a JSON schema of an object");
  schema.erase("nullable");
  const bool says_what = std::ranges::any_of(
      std::initializer_list<const char*>{"$ref", "const", "enum", "anyOf", "oneOf", "allOf"},
      [&](const char* key) { return schema.contains(key); });
  if (!says_what && !schema.contains("type")) schema["type"] = "object";
  return schema;
}

ExpressionPtr arguments_of(const ToolFunction& function, GrammarRules& rules) {
  if (function.parameters.is_null()) return literal("{}");
  const std::string place = "tool " + function.name + ": ";
  const Json schema = schema_of_object(function.parameters, place);
  GrammarRules own;
  try {
    own = json_schema_rules(schema);
  } catch (const Error& e) {
    throw Error(e.kind(), place + e.what());
  }
  std::set<std::string> seen;
  if (!holds_objects_only(schema, schema, seen))
    throw Error(ErrorKind::kUsage,
                place + "parameters must be a schema of type \"object\" and nothing else");
  return rule(rules.append(own));
}

ExpressionPtr call(const ToolCallRule& r, const ToolFunction& function, GrammarRules& rules) {
  const ExpressionPtr arguments = arguments_of(function, rules);
  if (!name_first(r.format)) {
    const char* key = r.format == ToolFormat::kLlama3 ? "parameters" : "arguments";
    return sequence({literal("{\"name\": " + Json(function.name).dump() + ", \"" + key + "\": "),
                     arguments, literal("}")});
  }
  std::vector<ExpressionPtr> parts;
  if (r.functions.size() > 1) {
    parts.push_back(literal(function.name));
    if (r.format == ToolFormat::kDeepSeekV3) parts.push_back(literal(std::string(kFence)));
  }
  parts.push_back(arguments);
  if (r.format == ToolFormat::kDeepSeekV3) parts.push_back(optional(literal("\n```")));
  return sequence(std::move(parts));
}

// One, or several with `between` between them.
ExpressionPtr list(const ExpressionPtr& one, bool several, const std::string& between) {
  return several ? sequence({one, repeat(sequence({literal(between), one}), 0)}) : one;
}

}  // namespace

std::string ToolCallRule::text() const {
  Json list = Json::array();
  for (const ToolFunction& f : functions)
    list.push_back({{"name", f.name}, {"parameters", f.parameters}});
  return Json{{"format", text::name(format)}, {"several", several}, {"functions", std::move(list)}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

ToolCallRule ToolCallRule::parse(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  const auto bad = [] { return Error(ErrorKind::kUsage, "tools: the rule is malformed"); };
  if (!json.is_object()) throw bad();
  ToolCallRule rule;
  const auto format = json.find("format"), several = json.find("several"),
             functions = json.find("functions");
  if (format == json.end() || !format->is_string() || several == json.end() ||
      !several->is_boolean() || functions == json.end() || !functions->is_array() ||
      functions->empty())
    throw bad();
  const auto found = find_tool_format(format->get<std::string>());
  if (!found || *found == ToolFormat::kNone) throw bad();
  rule.format = *found;
  rule.several = several->get<bool>();
  for (const Json& one : *functions) {
    const auto name = one.is_object() ? one.find("name") : one.end();
    if (!one.is_object() || name == one.end() || !name->is_string() ||
        !is_tool_name(name->get_ref<const std::string&>()) || !one.contains("parameters"))
      throw bad();
    rule.functions.push_back({name->get<std::string>(), one["parameters"]});
  }
  return rule;
}

std::string ToolCallRule::opening() const {
  const std::string only = functions.size() == 1 ? functions.front().name : "";
  std::string out;
  switch (format) {
    case ToolFormat::kNone:
    case ToolFormat::kLlama3:
      return "";
    case ToolFormat::kHermes:
      return std::string(kHermesOpen) + "\n";
    case ToolFormat::kMistral:
      return std::string(kMistralOpen);
    case ToolFormat::kMistralArgs:
      out = kMistralOpen;
      return only.empty() ? out : out + only + std::string(kMistralArguments);
    case ToolFormat::kDeepSeekV3:
      out = std::string(kDeepSeekCalls) + std::string(kDeepSeekCall) + "function" +
            std::string(kDeepSeekSeparator);
      return only.empty() ? out : out + only + std::string(kFence);
    case ToolFormat::kDeepSeekV31:
      out = std::string(kDeepSeekCalls) + std::string(kDeepSeekCall);
      return only.empty() ? out : out + only + std::string(kDeepSeekSeparator);
  }
  return out;
}

OpenedCall ToolCallRule::opened() const {
  OpenedCall out;
  out.opened = format != ToolFormat::kLlama3;
  if (name_first(format) && functions.size() == 1) out.name = functions.front().name;
  return out;
}

GrammarRules tool_call_rules(const ToolCallRule& r) {
  GrammarRules rules;
  std::vector<ExpressionPtr> calls;
  for (const ToolFunction& f : r.functions) calls.push_back(call(r, f, rules));
  const ExpressionPtr one = rule(rules.add("call", choice(std::move(calls))));
  ExpressionPtr root = one;
  switch (r.format) {
    case ToolFormat::kHermes: {
      const std::string close = "\n" + std::string(kHermesClose);
      root = sequence({list(one, r.several, close + "\n" + std::string(kHermesOpen) + "\n"),
                       optional(literal(close))});
      break;
    }
    case ToolFormat::kLlama3:
      root = list(one, r.several, "; ");
      break;
    case ToolFormat::kMistral:
      root = sequence({literal("["), list(one, r.several, ", "), literal("]")});
      break;
    default:
      break;
  }
  rules.root = rules.add("root", root);
  return rules;
}

}  // namespace tutti::text
