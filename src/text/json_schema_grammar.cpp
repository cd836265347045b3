#include "text/json_schema_grammar.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "text/regex_grammar.h"

namespace tutti::text {
namespace {

using Json = nlohmann::ordered_json;

std::string dumped(const Json& value) {
  try {
    return value.dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorKind::kUsage, "schema: holds text that is no UTF-8");
  }
}

// The characters of a JSON string that stand for a code point of `ranges`, in their one spelling.
ExpressionPtr spelled(const CodePoints& ranges) {
  CodePoints plain;
  std::vector<ExpressionPtr> choices;
  for (const auto& [first, last] : ranges) {
    uint32_t low = first;
    for (const uint32_t special : {uint32_t('"'), uint32_t('\\')}) {
      if (special < low || special > last) continue;
      if (low < special) plain.emplace_back(low, special - 1);
      choices.push_back(literal(std::string("\\") + char(special)));
      low = special + 1;
    }
    if (low <= last) plain.emplace_back(low, last);
  }
  CodePoints printable;
  for (auto [first, last] : plain) {
    for (; first < 0x20 && first <= last; ++first) {
      constexpr char kHex[] = "0123456789abcdef";
      switch (first) {
        case '\n':
          choices.push_back(literal("\\n"));
          break;
        case '\r':
          choices.push_back(literal("\\r"));
          break;
        case '\t':
          choices.push_back(literal("\\t"));
          break;
        case '\b':
          choices.push_back(literal("\\b"));
          break;
        case '\f':
          choices.push_back(literal("\\f"));
          break;
        default:
          choices.push_back(literal(std::string("\\u00") + kHex[first >> 4] + kHex[first & 15]));
      }
    }
    if (first <= last) printable.emplace_back(first, last);
  }
  if (!printable.empty()) choices.push_back(any_of(std::move(printable)));
  return choice(std::move(choices));
}

// An expression over text as one over the inside of a JSON string.
ExpressionPtr within_string(const ExpressionPtr& e) {
  switch (e->kind) {
    case Expression::kClass:
      return spelled(e->ranges);
    case Expression::kBytes:
      return e;  // only the empty one comes from a regular expression
    case Expression::kSequence:
    case Expression::kChoice: {
      std::vector<ExpressionPtr> parts;
      for (const ExpressionPtr& part : e->parts) parts.push_back(within_string(part));
      return e->kind == Expression::kSequence ? sequence(std::move(parts))
                                              : choice(std::move(parts));
    }
    case Expression::kRepeat:
      return repeat(within_string(e->parts.front()), e->least, e->most);
    case Expression::kRule:
      return e;
  }
  return e;
}

// Decimal numbers of equal length from `low` to `high`, both included.
ExpressionPtr digits_between(const std::string& low, const std::string& high) {
  const size_t n = low.size();
  if (n == 0) return literal("");
  const auto digit = [](char a, char b) { return any_of({{uint32_t(a), uint32_t(b)}}); };
  const auto all = [&](size_t count) { return repeat(digit('0', '9'), int(count), int(count)); };
  if (low[0] == high[0])
    return sequence({digit(low[0], low[0]), digits_between(low.substr(1), high.substr(1))});
  std::vector<ExpressionPtr> choices;
  char first = low[0], last = high[0];
  if (low.find_first_not_of('0', 1) != std::string::npos) {
    choices.push_back(
        sequence({digit(first, first), digits_between(low.substr(1), std::string(n - 1, '9'))}));
    ++first;
  }
  if (high.find_first_not_of('9', 1) != std::string::npos) {
    choices.push_back(
        sequence({digit(last, last), digits_between(std::string(n - 1, '0'), high.substr(1))}));
    --last;
  }
  if (first <= last) choices.push_back(sequence({digit(first, last), all(n - 1)}));
  return choice(std::move(choices));
}

// Numbers from 0 on, without leading zeros, from `low` to `high`.
void add_magnitudes(uint64_t low, uint64_t high, const char* sign,
                    std::vector<ExpressionPtr>& choices) {
  if (low > high) return;
  const std::string top = std::to_string(high);
  std::string from = std::to_string(low);
  for (size_t length = from.size(); length <= top.size(); ++length) {
    const std::string to = length == top.size() ? top : std::string(length, '9');
    choices.push_back(sequence({literal(sign), digits_between(from, to)}));
    from = "1" + std::string(length, '0');
  }
}

ExpressionPtr integers_between(int64_t low, int64_t high) {
  std::vector<ExpressionPtr> choices;
  if (low < 0) add_magnitudes(high < 0 ? uint64_t(-high) : 1, uint64_t(-low), "-", choices);
  if (high >= 0) add_magnitudes(low > 0 ? uint64_t(low) : 0, uint64_t(high), "", choices);
  return choice(std::move(choices));
}

class Builder {
 public:
  Builder(const Json& document, const JsonSchemaLimits& limits)
      : document_(document), limits_(limits) {
    const ExpressionPtr blanks = repeat(any_of({{' ', ' '}, {'\t', '\t'}}), 0, limits.white_space);
    space_ = rule(
        rules_.add("space", optional(choice({literal(" "), sequence({literal("\n"), blanks})}))));
    const ExpressionPtr hex = any_of({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
    // Escapes of halves of a pair would need each other: those characters are written as they are.
    const ExpressionPtr unicode = sequence(
        {literal("u"),
         choice(
             {sequence({any_of({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}), hex}),
              sequence({any_of({{'D', 'D'}, {'d', 'd'}}), any_of({{'0', '7'}})})}),
         hex, hex});
    const ExpressionPtr escape = sequence({literal("\\"), choice({any_of({{'"', '"'},
                                                                          {'/', '/'},
                                                                          {'\\', '\\'},
                                                                          {'b', 'b'},
                                                                          {'f', 'f'},
                                                                          {'n', 'n'},
                                                                          {'r', 'r'},
                                                                          {'t', 't'}}),
                                                                  unicode})});
    character_ = rule(
        rules_.add("character", choice({none_of({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}), escape})));
    string_ =
        rule(rules_.add("string", sequence({literal("\""), repeat(character_, 0), literal("\"")})));
    const ExpressionPtr digit = any_of({{'0', '9'}});
    const ExpressionPtr whole =
        sequence({optional(literal("-")),
                  choice({literal("0"),
                          sequence({any_of({{'1', '9'}}), repeat(digit, 0, limits.digits - 1)})})});
    integer_ = rule(rules_.add("integer", whole));
    const ExpressionPtr exponent =
        sequence({any_of({{'E', 'E'}, {'e', 'e'}}), optional(any_of({{'+', '+'}, {'-', '-'}})),
                  repeat(digit, 1, 2)});
    number_ = rule(rules_.add(
        "number",
        sequence({whole, optional(sequence({literal("."), repeat(digit, 1, limits.fraction)})),
                  optional(exponent)})));
    boolean_ = choice({literal("true"), literal("false")});
    null_ = literal("null");
    const int any = rules_.add("value");
    any_ = rule(any);
    any_object_ =
        rule(rules_.add("object", members(sequence({string_, colon(), any_}), 0, -1, "{", "}")));
    any_array_ = rule(rules_.add("array", members(any_, 0, -1, "[", "]")));
    rules_.bodies[size_t(any)] =
        choice({any_object_, any_array_, string_, number_, boolean_, null_});
  }

  GrammarRules build(ExpressionPtr root) {
    rules_.root = rules_.add("root", std::move(root));
    return std::move(rules_);
  }
  ExpressionPtr any_object() const { return any_object_; }

  ExpressionPtr schema(const Json& s, const std::string& path, int depth) {
    if (depth > limits_.depth)
      throw Error(ErrorKind::kLimit, "schema" + path + ": is nested deeper than " +
                                         std::to_string(limits_.depth) + " levels");
    if (++count_ > limits_.schemas)
      throw Error(ErrorKind::kLimit,
                  "schema: holds more than " + std::to_string(limits_.schemas) + " schemas");
    if (s.is_boolean()) {
      if (!s.get<bool>())
        throw Error(ErrorKind::kUnsupported, "schema" + path + ": false admits nothing");
      return any_;
    }
    if (!s.is_object()) malformed(path, "must be an object or true");
    known_keywords(s, path);
    ExpressionPtr e = body(s, path, depth);
    if (const auto nullable = s.find("nullable"); nullable != s.end() && *nullable == true)
      e = choice({std::move(e), null_});
    return e;
  }

 private:
  [[noreturn]] static void malformed(const std::string& path, const std::string& why) {
    throw Error(ErrorKind::kUsage, "schema" + path + ": " + why);
  }
  [[noreturn]] static void refuse(const std::string& path, const std::string& why) {
    throw Error(ErrorKind::kUnsupported, "schema" + path + ": " + why);
  }

  static void known_keywords(const Json& s, const std::string& path) {
    static const std::set<std::string> kKnown{"type",
                                              "enum",
                                              "const",
                                              "properties",
                                              "required",
                                              "additionalProperties",
                                              "items",
                                              "prefixItems",
                                              "minItems",
                                              "maxItems",
                                              "minLength",
                                              "maxLength",
                                              "pattern",
                                              "format",
                                              "minimum",
                                              "maximum",
                                              "exclusiveMinimum",
                                              "exclusiveMaximum",
                                              "multipleOf",
                                              "anyOf",
                                              "oneOf",
                                              "allOf",
                                              "$ref",
                                              "$defs",
                                              "definitions",
                                              "nullable",
                                              "title",
                                              "description",
                                              "default",
                                              "examples",
                                              "example",
                                              "$schema",
                                              "$id",
                                              "$comment",
                                              "deprecated",
                                              "readOnly",
                                              "writeOnly",
                                              "strict"};
    for (const auto& [key, value] : s.items()) {
      if (!kKnown.contains(key)) refuse(path, "keyword " + dumped(key) + " is not supported");
    }
  }

  // What constrains nothing, whatever stands beside it.
  static bool says_nothing(const std::string& key) {
    static const std::set<std::string> kNotes{
        "$defs",    "definitions", "nullable", "title",     "description",
        "default",  "examples",    "example",  "$schema",   "$id",
        "$comment", "deprecated",  "readOnly", "writeOnly", "strict"};
    return kNotes.contains(key);
  }
  // Keywords that would be lost beside `key`.
  static void alone(const Json& s, const std::string& key, const std::string& path,
                    std::initializer_list<std::string_view> welcome = {}) {
    for (const auto& [other, value] : s.items()) {
      const bool fine = other == key || says_nothing(other) ||
                        std::ranges::find(welcome, std::string_view(other)) != welcome.end();
      if (!fine)
        refuse(path + "/" + key,
               "does not go with \"" + other + "\" beside it; write it into one of them");
    }
  }
  // Whether a value is of a type that `type` (a name or several) admits.
  static bool is_of(const Json& value, const Json& type) {
    if (type.is_array())
      return std::ranges::any_of(type, [&](const Json& one) { return is_of(value, one); });
    if (type == "string") return value.is_string();
    if (type == "integer") return value.is_number_integer();
    if (type == "number") return value.is_number();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    return type == "array" ? value.is_array() : type == "object" && value.is_object();
  }
  static void fits_type(const Json& s, const Json& value, const std::string& place) {
    if (const auto type = s.find("type"); type != s.end() && !is_of(value, *type))
      malformed(place, "holds " + dumped(value) + ", which is not of the type");
  }

  ExpressionPtr body(const Json& s, const std::string& path, int depth) {
    if (const auto it = s.find("$ref"); it != s.end()) {
      alone(s, "$ref", path);
      return reference(*it, path, depth);
    }
    if (const auto it = s.find("const"); it != s.end()) {
      alone(s, "const", path, {"type"});
      fits_type(s, *it, path + "/const");
      return literal(dumped(*it));
    }
    if (const auto it = s.find("enum"); it != s.end()) {
      alone(s, "enum", path, {"type"});
      if (!it->is_array() || it->empty())
        malformed(path + "/enum", "must be an array that is not empty");
      for (const Json& value : *it) fits_type(s, value, path + "/enum");
      std::vector<ExpressionPtr> values;
      for (const Json& value : *it) values.push_back(literal(dumped(value)));
      return choice(std::move(values));
    }
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      const auto it = s.find(key);
      if (it == s.end()) continue;
      const std::string place = path + "/" + key;
      if (!it->is_array() || it->empty()) malformed(place, "must be an array that is not empty");
      alone(s, key, path);
      if (std::string_view(key) == "allOf" && it->size() > 1)
        refuse(place, "of more than one schema is not supported; join them");
      std::vector<ExpressionPtr> parts;
      for (size_t i = 0; i < it->size(); ++i)
        parts.push_back(schema((*it)[i], place + "/" + std::to_string(i), depth + 1));
      return choice(std::move(parts));
    }
    const auto type = s.find("type");
    if (type == s.end()) return of_type(implied_type(s), s, path, depth);
    if (type->is_string()) return of_type(*type, s, path, depth);
    if (!type->is_array() || type->empty())
      malformed(path + "/type", "must be a string or an array of strings");
    std::vector<ExpressionPtr> kinds;
    for (const Json& one : *type) {
      if (!one.is_string()) malformed(path + "/type", "must hold strings");
      kinds.push_back(of_type(one, s, path, depth));
    }
    return choice(std::move(kinds));
  }

  // What the other keywords speak of; "" : anything.
  static std::string implied_type(const Json& s) {
    for (const char* key : {"properties", "required", "additionalProperties"}) {
      if (s.contains(key)) return "object";
    }
    for (const char* key : {"items", "prefixItems", "minItems", "maxItems"}) {
      if (s.contains(key)) return "array";
    }
    for (const char* key : {"pattern", "minLength", "maxLength", "format"}) {
      if (s.contains(key)) return "string";
    }
    for (const char* key :
         {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}) {
      if (s.contains(key)) return "number";
    }
    return "";
  }

  ExpressionPtr of_type(const std::string& type, const Json& s, const std::string& path,
                        int depth) {
    if (type.empty()) return any_;
    if (type == "null") return null_;
    if (type == "boolean") return boolean_;
    if (type == "string") return string_of(s, path);
    if (type == "integer") return integer_of(s, path);
    if (type == "number") {
      for (const char* key :
           {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}) {
        if (s.contains(key)) refuse(path + "/" + key, "is supported for integers only");
      }
      return number_;
    }
    if (type == "array") return array_of(s, path, depth);
    if (type == "object") return object_of(s, path, depth);
    malformed(path + "/type", dumped(type) + " is no type");
  }

  static std::optional<int> size_of(const Json& s, const char* key, const std::string& path) {
    const auto it = s.find(key);
    if (it == s.end()) return std::nullopt;
    if (!it->is_number_integer() || *it < 0 || *it > kMostRepeats) {
      malformed(path + "/" + key,
                "must be a whole number from 0 to " + std::to_string(kMostRepeats));
    }
    return it->get<int>();
  }

  ExpressionPtr string_of(const Json& s, const std::string& path) {
    const auto least = size_of(s, "minLength", path), most = size_of(s, "maxLength", path);
    if (least && most && *least > *most) malformed(path + "/minLength", "is above maxLength");
    const auto pattern = s.find("pattern"), format = s.find("format");
    if (pattern != s.end() && (least || most || format != s.end())) {
      refuse(path + "/pattern",
             "does not go with minLength, maxLength or format; write the length into the pattern");
    }
    if (pattern != s.end()) {
      if (!pattern->is_string()) malformed(path + "/pattern", "must be a string");
      try {
        return sequence({literal("\""),
                         within_string(regex_expression(pattern->get<std::string>(), true)),
                         literal("\"")});
      } catch (const Error& e) {
        throw Error(e.kind(), "schema" + path + "/pattern: " + e.what());
      }
    }
    if (format != s.end()) {
      if (least || most)
        refuse(path + "/format", "does not go with minLength or maxLength; leave one of them out");
      if (!format->is_string()) malformed(path + "/format", "must be a string");
      const std::string inside = format_pattern(*format);
      if (!inside.empty())
        return sequence({literal("\""), regex_expression(inside), literal("\"")});
      refuse(path + "/format",
             dumped(*format) + " is not supported; leave it out, or write a pattern");
    }
    if (!least && !most) return string_;
    return sequence(
        {literal("\""), repeat(character_, least.value_or(0), most.value_or(-1)), literal("\"")});
  }

  // February has 28 days here, so that every date exists; leap seconds are left out.
  static std::string format_pattern(const std::string& format) {
    const std::string date =
        R"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])))";
    const std::string time =
        R"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9]))";
    if (format == "date") return date;
    if (format == "time") return time;
    if (format == "date-time") return date + "T" + time;
    if (format == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    return "";
  }

  ExpressionPtr integer_of(const Json& s, const std::string& path) {
    // As many digits as a double holds exactly.
    constexpr int64_t kMost = 999'999'999'999'999;
    const auto bound = [&](const char* key) -> std::optional<int64_t> {
      const auto it = s.find(key);
      if (it == s.end()) return std::nullopt;
      const bool huge = it->is_number_unsigned() && it->get<uint64_t>() > uint64_t(kMost);
      if (!it->is_number_integer() || huge || *it < -kMost || *it > kMost)
        refuse(path + "/" + key, "must be a whole number of at most 15 digits");
      return it->get<int64_t>();
    };
    if (const auto multiple = s.find("multipleOf"); multiple != s.end() && *multiple != 1)
      refuse(path + "/multipleOf", "is supported as 1 only");
    std::optional<int64_t> low = bound("minimum"), high = bound("maximum");
    if (const auto above = bound("exclusiveMinimum"))
      low = std::max(low.value_or(*above + 1), *above + 1);
    if (const auto below = bound("exclusiveMaximum"))
      high = std::min(high.value_or(*below - 1), *below - 1);
    if (!low && !high) return integer_;
    if (low.value_or(-kMost) > high.value_or(kMost)) malformed(path, "minimum is above maximum");
    return integers_between(low.value_or(-kMost), high.value_or(kMost));
  }

  ExpressionPtr colon() const { return sequence({literal(":"), space_}); }
  ExpressionPtr comma() const { return sequence({literal(","), space_}); }

  // `open` member, member … `close`, of at least `least`, at most `most` (-1: any number) members.
  ExpressionPtr members(const ExpressionPtr& member, int least, int most, const char* open,
                        const char* close) const {
    if (most == 0) return literal(std::string(open) + close);
    const ExpressionPtr more = sequence({comma(), member});
    ExpressionPtr some =
        sequence({member, repeat(more, std::max(0, least - 1), most < 0 ? -1 : most - 1)});
    if (least == 0)
      return sequence({literal(open), space_, optional(sequence({some, space_})), literal(close)});
    return sequence({literal(open), space_, some, space_, literal(close)});
  }

  ExpressionPtr array_of(const Json& s, const std::string& path, int depth) {
    const int least = size_of(s, "minItems", path).value_or(0),
              most = size_of(s, "maxItems", path).value_or(-1);
    if (most >= 0 && least > most) malformed(path + "/minItems", "is above maxItems");
    const auto items = s.find("items"), prefix = s.find("prefixItems");
    if (prefix == s.end()) {
      const ExpressionPtr item =
          items == s.end()
              ? any_
              : rule(rules_.add(path + "/items", schema(*items, path + "/items", depth + 1)));
      return members(item, least, most, "[", "]");
    }
    // A tuple: all of it, and no more.
    if (!prefix->is_array() || prefix->empty())
      malformed(path + "/prefixItems", "must be an array that is not empty");
    if (items != s.end() && *items != false)
      refuse(path + "/items", "beside prefixItems is supported as false only");
    if (least > int(prefix->size()) || (most >= 0 && most < int(prefix->size())))
      refuse(path + "/prefixItems", "has another length than minItems or maxItems allow");
    std::vector<ExpressionPtr> parts{literal("["), space_};
    for (size_t i = 0; i < prefix->size(); ++i) {
      if (i > 0) parts.push_back(comma());
      parts.push_back(schema((*prefix)[i], path + "/prefixItems/" + std::to_string(i), depth + 1));
    }
    parts.push_back(space_);
    parts.push_back(literal("]"));
    return sequence(std::move(parts));
  }

  // Names that are none of `taken`, without escapes, so that no other spelling of those gets
  // through.
  ExpressionPtr other_name(const std::vector<std::string>& taken) {
    constexpr size_t kLongest = 256;  // the tree is as deep as the longest name
    for (const std::string& name : taken) {
      if (name.size() > kLongest) {
        throw Error(ErrorKind::kLimit, "schema: a property's name has more than " +
                                           std::to_string(kLongest) +
                                           " bytes beside additionalProperties");
      }
    }
    struct Node {
      std::map<uint32_t, size_t> children;
      bool end = false;
    };
    std::vector<Node> tree(1);
    for (const std::string& name : taken) {
      size_t at = 0;
      for (size_t i = 0; i < name.size();) {
        const unsigned char lead = static_cast<unsigned char>(name[i]);
        const int n = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        uint32_t c = n == 1 ? lead : lead & (0xFFu >> (n + 1));
        for (int k = 1; k < n && i + size_t(k) < name.size(); ++k)
          c = (c << 6) | (static_cast<unsigned char>(name[i + size_t(k)]) & 0x3F);
        i += size_t(n);
        const auto [it, fresh] = tree[at].children.try_emplace(c, tree.size());
        const size_t next = it->second;
        if (fresh) tree.emplace_back();
        at = next;
      }
      tree[at].end = true;
    }
    const CodePoints never{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    std::vector<ExpressionPtr> built(tree.size());
    for (size_t i = tree.size(); i-- > 0;) {
      std::vector<ExpressionPtr> choices;
      CodePoints others = never;
      for (const auto& [c, child] : tree[i].children) {
        others.emplace_back(c, c);
        if (c >= 0x20 && c != '"' && c != '\\')
          choices.push_back(sequence({any_of({{c, c}}), built[child]}));
      }
      choices.push_back(sequence({none_of(others), repeat(none_of(never), 0)}));
      if (!tree[i].end) choices.push_back(literal(""));
      built[i] = choice(std::move(choices));
    }
    return sequence({literal("\""), built[0], literal("\"")});
  }

  ExpressionPtr object_of(const Json& s, const std::string& path, int depth) {
    const auto properties = s.find("properties"), required = s.find("required"),
               more = s.find("additionalProperties");
    std::set<std::string> needed;
    if (required != s.end()) {
      if (!required->is_array()) malformed(path + "/required", "must be an array");
      for (const Json& name : *required) {
        if (!name.is_string()) malformed(path + "/required", "must hold strings");
        needed.insert(name);
      }
    }
    struct Property {
      ExpressionPtr member;
      bool needed;
    };
    std::vector<Property> list;
    std::vector<std::string> names;
    if (properties != s.end()) {
      if (!properties->is_object()) malformed(path + "/properties", "must be an object");
      for (const auto& [name, value] : properties->items()) {
        const std::string place = path + "/properties/" + name;
        const ExpressionPtr inner = rule(rules_.add(place, schema(value, place, depth + 1)));
        list.push_back({sequence({literal(dumped(name)), colon(), inner}), needed.erase(name) > 0});
        names.push_back(name);
      }
    }
    const bool closed = more != s.end() && *more == false;
    // Of members that no property speaks of.
    const ExpressionPtr value =
        more == s.end() || more->is_boolean()
            ? any_
            : rule(rules_.add(path + "/additionalProperties",
                              schema(*more, path + "/additionalProperties", depth + 1)));
    for (const std::string& name : needed) {
      if (closed)
        malformed(path + "/required",
                  "names " + dumped(name) + ", which additionalProperties forbids");
      list.push_back({sequence({literal(dumped(name)), colon(), value}), true});
      names.push_back(name);
    }
    ExpressionPtr other;  // a further member; null: none
    const bool open = more != s.end() ? !closed : list.empty();
    if (open) {
      other = sequence({names.empty() ? string_ : other_name(names), colon(), value});
    }
    if (list.empty()) return other ? members(other, 0, -1, "{", "}") : literal("{}");
    // after[i]: what may follow when a member stands and property i is next; first[i]: when none
    // stands yet.
    ExpressionPtr after = other ? repeat(sequence({comma(), other}), 0) : literal("");
    ExpressionPtr first = other ? optional(sequence({other, after})) : literal("");
    for (size_t i = list.size(); i-- > 0;) {
      const Property& p = list[i];
      const ExpressionPtr rest = rule(rules_.add(path + ", after " + names[i], after));
      const ExpressionPtr without = first;
      first = sequence({p.member, rest});
      if (!p.needed) first = choice({std::move(first), without});
      after = sequence({comma(), p.member, rest});
      if (!p.needed) after = choice({std::move(after), rest});
    }
    const ExpressionPtr inside = rule(rules_.add(path + ", members", first));
    return sequence({literal("{"), space_, inside, space_, literal("}")});
  }

  ExpressionPtr reference(const Json& ref, const std::string& path, int depth) {
    if (!ref.is_string()) malformed(path + "/$ref", "must be a string");
    const std::string target = ref;
    if (const auto it = references_.find(target); it != references_.end()) return rule(it->second);
    if (!target.starts_with("#"))
      refuse(path + "/$ref", "leads out of the document; put that schema into $defs");
    const Json* found = nullptr;
    try {
      found = &document_.at(Json::json_pointer(target.substr(1)));
    } catch (const nlohmann::json::exception&) {
      malformed(path + "/$ref", dumped(target) + " is not there");
    }
    const int index = rules_.add(target);
    references_[target] = index;  // before it is read: it may name itself
    const ExpressionPtr body = schema(*found, target.substr(1), depth + 1);
    rules_.bodies[size_t(index)] = body;
    return rule(index);
  }

  const Json& document_;
  JsonSchemaLimits limits_;
  GrammarRules rules_;
  ExpressionPtr space_, character_, string_, integer_, number_, boolean_, null_, any_, any_object_,
      any_array_;
  std::map<std::string, int> references_;
  int count_ = 0;
};

}  // namespace

GrammarRules json_schema_rules(const Json& schema, const JsonSchemaLimits& limits) {
  Builder builder(schema, limits);
  return builder.build(builder.schema(schema, "", 0));
}

GrammarRules json_object_rules(const JsonSchemaLimits& limits) {
  static const Json kNothing = Json::object();
  Builder builder(kNothing, limits);
  return builder.build(builder.any_object());
}

}  // namespace tutti::text
