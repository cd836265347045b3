#include "text/grammar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <regex>

#include "base/draws.h"
#include "base/error.h"
#include "text/gbnf.h"
#include "text/json_schema_grammar.h"
#include "text/regex_grammar.h"

namespace tutti::text {
namespace {

using Json = nlohmann::ordered_json;

// One token per byte, an end token behind them.
std::shared_ptr<const TokenTree> byte_tokens() {
  static const auto tree = [] {
    std::vector<std::string> bytes;
    for (int b = 0; b < 256; ++b) bytes.emplace_back(1, char(b));
    bytes.emplace_back();
    return std::make_shared<TokenTree>(bytes, std::vector<int32_t>{256});
  }();
  return tree;
}

GrammarRules rules_of(ExpressionPtr e) {
  GrammarRules rules;
  rules.add("root", std::move(e));
  return rules;
}

bool matches(Grammar& g, std::string_view text) {
  const Grammar::State state = g.advance(g.start(), text);
  return state != Grammar::kNowhere && g.accepts(state);
}

// All texts over `alphabet` up to `length`.
void each_text(const std::string& alphabet, size_t length,
               const std::function<void(const std::string&)>& visit) {
  std::vector<std::string> texts{""};
  for (size_t i = 0; i < texts.size(); ++i) {
    visit(texts[i]);
    if (texts[i].size() == length) continue;
    for (const char c : alphabet) texts.push_back(texts[i] + c);
  }
}

std::string random_pattern(Draws& draws, int depth) {
  const auto atom = [&]() -> std::string {
    switch (draws.below(depth > 0 ? 7 : 5)) {
      case 0:
        return "a";
      case 1:
        return "b";
      case 2:
        return "[ab]";
      case 3:
        return "[^a]";
      case 4:
        return "c";
      case 5:
        return "(" + random_pattern(draws, depth - 1) + ")";
      default:
        return "(?:" + random_pattern(draws, depth - 1) + ")";
    }
  };
  std::string out;
  for (int i = draws.below(4); i >= 0; --i) {
    constexpr const char* kRepeats[] = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}"};
    out += atom() + kRepeats[draws.below(9)];
    if (draws.below(4) == 0) out += "|";
  }
  return out;
}

TEST(Regex, RandomPatternsAreStdRegexs) {
  Draws draws(1);
  for (int round = 0; round < 300; ++round) {
    const std::string pattern = random_pattern(draws, 2);
    const std::regex expected(pattern);
    Grammar g(rules_of(regex_expression(pattern)), byte_tokens());
    Grammar anywhere(rules_of(regex_expression(pattern, true)), byte_tokens());
    each_text("abc", 4, [&](const std::string& text) {
      ASSERT_EQ(matches(g, text), std::regex_match(text, expected)) << pattern << " on " << text;
      ASSERT_EQ(matches(anywhere, text), std::regex_search(text, expected))
          << pattern << " in " << text;
    });
  }
}

TEST(Regex, ClassesAndEscapesAreStdRegexs) {
  for (const char* pattern :
       {R"(\d+)", R"(\D)", R"(\w*)", R"(\W)", R"(\s)", R"(\S)", R"([\d\-x])", R"([^\w])", R"(\.)",
        R"(\x41)", R"(A)", R"(\t|\n)", R"([a\]b])", R"(.)", R"(\/\{\})", R"([+\-*\/])"}) {
    const std::regex expected(pattern);
    Grammar g(rules_of(regex_expression(pattern)), byte_tokens());
    for (int b = 1; b < 128; ++b) {
      const std::string text(1, char(b));
      EXPECT_EQ(matches(g, text), std::regex_match(text, expected)) << pattern << " on byte " << b;
    }
  }
}

TEST(Regex, AnchorsOfASearch) {
  const auto search = [](const char* pattern, std::string_view text) {
    Grammar g(rules_of(regex_expression(pattern, true)), byte_tokens());
    return matches(g, text);
  };
  EXPECT_TRUE(search("b", "abc"));
  EXPECT_FALSE(search("^b", "abc"));
  EXPECT_TRUE(search("^ab", "abc"));
  EXPECT_FALSE(search("b$", "abc"));
  EXPECT_TRUE(search("^abc$", "abc"));
  EXPECT_FALSE(search("^ab$", "abc"));
}

TEST(Regex, WhatIsNotRegularIsRefused) {
  for (const char* pattern :
       {"(a", "a)", "[a", "*a", "a{2,1}", "(?=a)", "(?<n>a)", R"(\1)", R"(\b)", R"(\p{L})", "a^b",
        "a$b", "\\", R"(\q)", "a{99999}", "a{,3}", "[z-a]", "\xff"}) {
    EXPECT_THROW(regex_expression(pattern), Error) << pattern;
  }
  EXPECT_THROW(regex_expression(std::string(300, '(')), Error);
}

// Every code point by its encoding, at the borders of lengths and around surrogates.
TEST(Classes, AreCodePointsInUtf8) {
  Draws draws(5);
  const auto encode = [](uint32_t c) {
    std::string s;
    if (c < 0x80)
      s = {char(c)};
    else if (c < 0x800)
      s = {char(0xC0 | c >> 6), char(0x80 | (c & 63))};
    else if (c < 0x10000)
      s = {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
    else
      s = {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)),
           char(0x80 | (c & 63))};
    return s;
  };
  constexpr uint32_t kBorders[] = {0,      0x7F,   0x80,   0x7FF,   0x800,   0xFFF,   0x1000,
                                   0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x10FFFF};
  for (int round = 0; round < 60; ++round) {
    const auto near = [&] {
      return std::min(kLastCodePoint, kBorders[draws.below(13)] + uint32_t(draws.below(70)));
    };
    uint32_t a = near(), b = near();
    if (a > b) std::swap(a, b);
    Grammar in(rules_of(any_of({{a, b}})), byte_tokens()),
        out(rules_of(none_of({{a, b}})), byte_tokens());
    for (int i = 0; i < 400; ++i) {
      const uint32_t c = i < 200 ? near() : uint32_t(draws.below(int(kLastCodePoint) + 1));
      if (c >= 0xD800 && c < 0xE000) continue;
      ASSERT_EQ(matches(in, encode(c)), c >= a && c <= b) << a << " " << b << " " << c;
      ASSERT_EQ(matches(out, encode(c)), !(c >= a && c <= b)) << a << " " << b << " " << c;
    }
  }
  Grammar any(rules_of(none_of({})), byte_tokens());
  for (const char* bad : {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80"})
    EXPECT_FALSE(matches(any, bad));
}

TEST(Gbnf, DescribesNestedLanguages) {
  Grammar g(parse_gbnf("# pairs\nroot ::= pair*  # any number\npair ::= \"(\" root \")\" |\n  "
                       "\"[\" root \"]\"\n"),
            byte_tokens());
  const std::function<bool(std::string_view)> balanced = [](std::string_view text) {
    std::string open;
    for (const char c : text) {
      if (c == '(' || c == '[')
        open += c;
      else if (open.empty() || (c == ')') != (open.back() == '('))
        return false;
      else
        open.pop_back();
    }
    return open.empty();
  };
  each_text("()[]", 6,
            [&](const std::string& text) { ASSERT_EQ(matches(g, text), balanced(text)) << text; });
}

TEST(Gbnf, ReadsTheNotation) {
  Grammar g(parse_gbnf("root ::= \"a\\n\\x41\\u00e4\" [^0-9\\]]{2,3} ( \"x\"\n | \"y\" )+ opt? "
                       ".\nopt ::= \"-\"\n"),
            byte_tokens());
  EXPECT_TRUE(matches(g,
                      "a\nA\xC3\xA4qq"
                      "x!"));
  EXPECT_TRUE(matches(g, "a\nA\xC3\xA4qqqxyx-\xE2\x82\xAC"));
  EXPECT_FALSE(matches(g, "a\nA\xC3\xA4q1x!"));
  EXPECT_FALSE(matches(g, "a\nA\xC3\xA4qqqqx!"));
  for (const char* bad :
       {"", "a ::= \"b\"", "root ::= b", "root ::= \"a", "root = \"a\"", "root ::= (\"a\"",
        "root ::= [a", "root ::= \"a\"\nroot ::= \"b\"", "root ::= root \"a\"",
        "root ::= a\na ::= b? root", "root ::= \"\\q\"", "root ::= \"a\" }"}) {
    EXPECT_THROW(Grammar(parse_gbnf(bad), byte_tokens()), Error) << bad;
  }
}

// Against the definition: a token is allowed where its bytes lead somewhere.
TEST(Masks, AreTheTokensThatLeadSomewhere) {
  Draws draws(8);
  std::vector<std::string> bytes{""};
  const std::string alphabet = "{}[]\",:01a ";
  for (int i = 0; i < 400; ++i) {
    std::string token;
    for (int k = draws.below(5); k >= 0; --k)
      token += alphabet[size_t(draws.below(int(alphabet.size())))];
    bytes.push_back(token);  // some twice
  }
  bytes.push_back("");
  const int32_t end = int32_t(bytes.size()) - 1;
  const auto tokens = std::make_shared<TokenTree>(bytes, std::vector<int32_t>{end});
  Grammar g(json_object_rules(), tokens), other(json_object_rules(), tokens);
  int ended = 0;
  for (int round = 0; round < 200; ++round) {
    Grammar::State state = g.start();
    for (int step = 0; step < 30; ++step) {
      const auto mask = g.allowed(state);
      std::vector<int32_t> open;
      for (int32_t t = 0; t < int32_t(bytes.size()); ++t) {
        const bool allowed = (*mask)[size_t(t) / 64] >> (t % 64) & 1;
        if (t == end) {
          EXPECT_TRUE(allowed || !g.accepts(state));
        } else {
          // In a grammar that has walked nowhere before: what is kept changes nothing.
          ASSERT_EQ(allowed, !bytes[size_t(t)].empty() &&
                                 g.advance(state, bytes[size_t(t)]) != Grammar::kNowhere)
              << t;
        }
        if (allowed) open.push_back(t);
      }
      ASSERT_FALSE(open.empty());
      const int32_t next = open[size_t(draws.below(int(open.size())))];
      if (next == end) {
        ++ended;
        break;
      }
      state = g.advance(state, next);
    }
  }
  EXPECT_GT(ended, 20);
  EXPECT_EQ(*g.allowed(g.start()), *other.allowed(other.start()));
}

TEST(Limits, AreKept) {
  GrammarLimits small;
  small.states = 100;
  EXPECT_THROW(Grammar(rules_of(repeat(literal("abc"), 50, 50)), byte_tokens(), small), Error);
  GrammarLimits shallow;
  shallow.depth = 3;
  Grammar g(parse_gbnf("root ::= \"(\" root? \")\"  \"!\"?"), byte_tokens(), shallow);
  EXPECT_TRUE(matches(g, "((()))"));
  EXPECT_FALSE(matches(g, "((((()))))"));  // deeper than it looks
  // A limit that was met is met again, by whoever comes there next.
  GrammarLimits few;
  few.sets = 40;
  Grammar wide(rules_of(regex_expression("(a|b)*a(a|b){12}")), byte_tokens(), few);
  const auto walk = [&] {
    Grammar::State state = wide.start();
    Draws letters(3);
    for (int i = 0; i < 4000; ++i) state = wide.advance(state, letters.below(2) ? "a" : "b");
  };
  for (int i = 0; i < 5; ++i) EXPECT_THROW(walk(), Error);
  // Work without states, depth without end, chains of rules: refused in bounded time.
  EXPECT_THROW(Grammar(rules_of(regex_expression("((()()()()){10000}){10000}")), byte_tokens()),
               Error);
  EXPECT_THROW(regex_expression("a" + std::string(10000, '*')), Error);
  EXPECT_THROW(parse_gbnf("root ::= \"a\"" + std::string(10000, '*')), Error);
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 6000; ++i)
    chain += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "\n";
  EXPECT_THROW(Grammar(parse_gbnf(chain + "r6000 ::= \"\"\n"), byte_tokens()), Error);
  const Json long_name{{"properties", {{std::string(60000, 'x'), Json::object()}}},
                       {"additionalProperties", true}};
  EXPECT_THROW(json_schema_rules(long_name), Error);
  // A call at the end of a rule takes no depth.
  Grammar list(parse_gbnf("root ::= \"a\" root | \"b\""), byte_tokens(), shallow);
  EXPECT_TRUE(matches(list, std::string(1000, 'a') + "b"));
}

// A random document, as nlohmann prints it.
Json random_value(Draws& draws, int depth) {
  switch (draws.below(depth > 0 ? 7 : 5)) {
    case 0:
      return draws.below(2) == 0;
    case 1:
      return nullptr;
    case 2:
      return draws.below(2000) - 1000;
    case 3:
      return double(draws.uniform(-1, 1)) * std::pow(10.0, draws.below(20) - 10);
    case 4: {
      std::string s;
      constexpr const char* kPieces[] = {
          "a", "\"", "\\", "\n", "\t", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\x01", "/"};
      for (int i = draws.below(6); i > 0; --i) s += kPieces[draws.below(10)];
      return s;
    }
    case 5: {
      Json list = Json::array();
      for (int i = draws.below(4); i > 0; --i) list.push_back(random_value(draws, depth - 1));
      return list;
    }
    default: {
      Json object = Json::object();
      for (int i = draws.below(4); i > 0; --i)
        object["k" + std::to_string(i)] = random_value(draws, depth - 1);
      return object;
    }
  }
}

TEST(JsonObject, HoldsWhatALibraryPrintsAndOnlyJson) {
  Draws draws(11);
  Grammar g(json_object_rules(), byte_tokens());
  for (int round = 0; round < 400; ++round) {
    Json object = Json::object();
    for (int i = draws.below(4); i > 0; --i)
      object["k" + std::to_string(i)] = random_value(draws, 3);
    EXPECT_TRUE(matches(g, object.dump())) << object.dump();
  }
  // A walk over allowed bytes that ends where it may is JSON.
  int whole = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text;
    Grammar::State state = g.start();
    for (int step = 0; step < 200; ++step) {
      const auto mask = g.allowed(state);
      std::vector<int> open;
      for (int b = 0; b < 257; ++b) {
        if ((*mask)[size_t(b) / 64] >> (b % 64) & 1) open.push_back(b);
      }
      // Closing ends texts sooner.
      int next = open[size_t(draws.below(int(open.size())))];
      for (const int b : open) {
        if ((b == '}' || b == ']' || b == '"' || b == 256) && draws.below(3) == 0) next = b;
      }
      if (next == 256) {
        EXPECT_TRUE(Json::accept(text)) << text;
        ++whole;
        break;
      }
      text += char(next);
      state = g.advance(state, std::string_view(&text.back(), 1));
    }
  }
  EXPECT_GT(whole, 100);
}

struct SchemaCase {
  const char* schema;
  std::vector<const char*> yes, no;
};

TEST(JsonSchema, AdmitsWhatItSays) {
  const SchemaCase kCases[] = {
      {R"({"type":"integer","minimum":-12,"maximum":305})",
       {"-12", "-9", "-1", "0", "7", "99", "100", "299", "305"},
       {"-13", "306", "-0", "007", "1000", "1.0", "-20"}},
      {R"({"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":21})",
       {"10", "15", "20"},
       {"9", "21", "1", "2", "100"}},
      {R"({"type":"integer","minimum":5})",
       {"5", "10", "999999999999999"},
       {"4", "-5", "1000000000000000"}},
      {R"({"type":["string","null"]})", {"\"a\"", "null", "\"\""}, {"1", "nul", "\"a"}},
      {R"({"enum":["red",1,null,{"a":[1,2]}]})",
       {"\"red\"", "1", "null", "{\"a\":[1,2]}"},
       {"red", "2", "\"re\""}},
      {R"({"const":"x\"y"})", {"\"x\\\"y\""}, {"\"x\"y\""}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {"\"ab\"", "\"\xC3\xA4\xC3\xA4\xC3\xA4\"", "\"\\n\\u0041\""},
       {"\"a\"", "\"abcd\""}},
      {R"({"type":"string","pattern":"^[a-c]+\"$"})",
       {"\"ab\\\"\"", "\"c\\\"\""},
       {"\"\\\"\"", "\"d\\\"\"", "\"ab\""}},
      {R"({"type":"string","pattern":"b"})", {"\"abc\"", "\"b\""}, {"\"ac\""}},
      {R"({"type":"string","format":"date"})",
       {"\"2026-11-27\"", "\"2024-02-28\""},
       {"\"2026-13-01\"", "\"2026-04-31\"", "\"26-1-1\""}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3})",
       {"[true]", "[true, false]", "[true,false,true]", "[ true ]", "[\n  true\n]"},
       {"[]", "[true,false,true,true]", "[1]", "[true,]"}},
      {R"({"type":"array","items":{"type":"integer"},"maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}]})",
       {"[1, \"a\"]"},
       {"[1]", "[\"a\", 1]", "[1, \"a\", 2]"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"null"}},"required":["b"]})",
       {R"({"a": 1, "b": "x", "c": null})", R"({"b":"x"})", R"({"b": "x", "c": null})",
        R"({"a":1,"b":""})"},
       {"{}", R"({"a":1})", R"({"b":"x","a":1})", R"({"b":"x","d":1})", R"({"a":1,"b":"x",})",
        R"({,"b":"x"})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"}}})",
       {"{}", "{ }", R"({"a":1})"},
       {R"({"b":1})", R"({"a":"1"})"}},
      {R"({"type":"object","properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"string"}})",
       {"{}", R"({"ab":1})", R"({"ab":1, "a":"x", "abc":"y", "":"z"})", R"({"x":"y"})"},
       {R"({"ab":"1"})", R"({"ab":1,"ab":"x"})", R"({"x":1})", R"({"\u0061b":"x"})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"a":1,"b":2})"},
       {R"({"a":"1"})"}},
      {R"({"type":"object","required":["z"]})",
       {R"({"z":[1,{"a":null}]})"},
       {"{}", R"({"z":1,"y":2})"}},
      {R"({"required":["z"],"additionalProperties":{"type":"integer"}})",
       {R"({"z":1})", R"({"z":1,"y":2})"},
       {"{}", R"({"z":"1"})"}},
      {R"({"type":"string","enum":["a","bb"]})", {"\"a\""}, {"\"b\""}},
      {R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"k":{"const":1}},"required":["k"]}]})",
       {"5", R"({"k":1})"},
       {R"({"k":2})", "\"a\""}},
      {R"({"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["v"]}}})",
       {R"({"v":1})", R"({"v":1,"kids":[{"v":2,"kids":[]},{"v":3}]})"},
       {R"({"kids":[]})", R"({"v":1,"kids":[{}]})"}},
      {R"({})", {"1", "\"a\"", "{\"a\":[]}", "-1.5e+10"}, {"", "01", "+1"}},
      {R"({"type":"number"})", {"0", "-1.25", "1e9", "3.0"}, {"1.", ".5", "--1", "\"1\""}},
  };
  for (const SchemaCase& c : kCases) {
    Grammar g(json_schema_rules(Json::parse(c.schema)), byte_tokens());
    for (const char* text : c.yes) EXPECT_TRUE(matches(g, text)) << c.schema << "\n" << text;
    for (const char* text : c.no) EXPECT_FALSE(matches(g, text)) << c.schema << "\n" << text;
  }
}

TEST(JsonSchema, RefusesWhatItCannotEnforce) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"type":"object","patternProperties":{}})", "patternProperties"},
      {R"({"not":{}})", "not"},
      {R"({"type":"strin"})", "strin"},
      {R"({"type":"integer","minimum":5,"maximum":4})", "minimum is above"},
      {R"({"type":"number","minimum":5})", "integers only"},
      {R"({"$ref":"http://x"})", "out of the document"},
      {R"({"$ref":"#/$defs/no"})", "not there"},
      {R"x({"type":"string","pattern":"(?=a)"})x", "/pattern"},
      {R"({"type":"array","minItems":-1})", "minItems"},
      {R"({"enum":[]})", "enum"},
      {R"({"properties":{"a":{"type":"integer","multipleOf":3}}})", "/properties/a/multipleOf"},
      {R"({"$ref":"#/$defs/a","minLength":3,"$defs":{"a":{"type":"string"}}})",
       "$ref: does not go with \"minLength\""},
      {R"({"enum":["a"],"maxLength":1})", "maxLength"},
      {R"({"type":"integer","enum":["a"]})", "not of the type"},
      {R"({"anyOf":[{"type":"object"}],"required":["a"]})", "required"},
      {R"({"type":"string","format":"email"})", "email"},
      {R"({"type":"string","format":"date","maxLength":3})", "format"},
      {R"({"required":["a"],"additionalProperties":false})", "forbids"},
      {R"({"minimum":18446744073709551615,"type":"integer"})", "15 digits"},
      {R"(false)", "nothing"},
      {R"([])", "object"},
  };
  for (const auto& [schema, words] : kCases) {
    try {
      json_schema_rules(Json::parse(schema));
      ADD_FAILURE() << schema;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  }
  // Nothing but itself: no text ends.
  EXPECT_THROW(Grammar(json_schema_rules(Json::parse(R"({"$ref":"#"})")), byte_tokens()), Error);
  std::string deep = "{}";
  for (int i = 0; i < 80; ++i) deep = R"({"items":)" + deep + "}";
  EXPECT_THROW(json_schema_rules(Json::parse(deep)), Error);
}

}  // namespace
}  // namespace tutti::text
