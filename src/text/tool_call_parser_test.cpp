#include "text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/draws.h"
#include "base/error.h"
#include "base/files.h"
#include "text/grammar.h"
#include "text/tool_call_grammar.h"

namespace tutti::text {
namespace {

using Json = nlohmann::ordered_json;
using enum ToolFormat;

// What a parser made of a text: calls put together, and whether each began with its name.
struct Parsed {
  std::string content;
  std::vector<ToolCallPiece> calls;
  bool operator==(const Parsed& o) const {
    return content == o.content &&
           std::ranges::equal(calls, o.calls, [](const auto& a, const auto& b) {
             return a.name == b.name && a.id == b.id && a.arguments == b.arguments;
           });
  }
};

const std::vector<std::string> kTools{"get_weather", "search", "function"};

Parsed parse(ToolFormat format, const std::vector<std::string>& pieces, OpenedCall opened = {}) {
  ToolCallParser parser(format, kTools, std::move(opened));
  Parsed all;
  const auto add = [&](ToolText&& out) {
    all.content += out.content;
    for (ToolCallPiece& piece : out.calls) {
      if (piece.name.empty()) {
        EXPECT_EQ(size_t(piece.index) + 1, all.calls.size());
        all.calls.at(size_t(piece.index)).arguments += piece.arguments;
      } else {
        EXPECT_EQ(size_t(piece.index), all.calls.size());
        all.calls.push_back(std::move(piece));
      }
    }
  };
  for (const std::string& piece : pieces) {
    ToolText out;
    parser.push(piece, out);
    add(std::move(out));
  }
  ToolText out;
  parser.finish(out);
  add(std::move(out));
  return all;
}

// The same whole, cut once at every byte, and cut at all bytes.
Parsed parse_all_ways(ToolFormat format, const std::string& text, const OpenedCall& opened = {}) {
  const Parsed whole = parse(format, {text}, opened);
  std::vector<std::string> bytes;
  for (size_t i = 0; i <= text.size(); ++i) {
    EXPECT_EQ(parse(format, {text.substr(0, i), text.substr(i)}, opened), whole)
        << text << " cut at " << i;
    if (i < text.size()) bytes.push_back(text.substr(i, 1));
  }
  EXPECT_EQ(parse(format, bytes, opened), whole) << text;
  return whole;
}

struct Case {
  ToolFormat format;
  std::string text, content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
};

const std::string kTwo = R"({"city": "Z\u00fcrich \"}\"", "days": [1, {"a": null}]})";

const std::vector<Case> kCases{
    {kHermes, "No call.\n", "No call.\n", {}},
    {kHermes, "a < b <tool_cal", "a < b <tool_cal", {}},
    {kHermes,
     "<tool_call>\n{\"name\": \"search\", \"arguments\": " + kTwo + "}\n</tool_call>",
     "",
     {{"search", kTwo}}},
    {kHermes,
     "Let me see.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>\n"
     "<tool_call>\n{\"arguments\": {\"q\":1} , \"name\": \"search\"}\n</tool_call>\n",
     "Let me see.",
     {{"get_weather", "{}"}, {"search", "{\"q\":1}"}}},
    {kHermes,
     "<tool_call>{\"name\": \"search\", \"arguments\": \"{\\\"q\\\": \\\"\\u00e9\\\"}\"}"
     "</tool_call> done",
     " done",
     {{"search", "{\"q\": \"é\"}"}}},
    {kHermes, "<tool_call>{\"name\": \"search\"}</tool_call>", "", {{"search", "{}"}}},
    {kHermes, "<tool_call>{\"name\": \"search\", \"arguments\": null}", "", {{"search", "{}"}}},
    {kHermes,
     "<tool_call>{\"name\": \"search\", \"arguments\": {\"q\": \"cut o",
     "",
     {{"search", "{\"q\": \"cut o"}}},
    {kHermes,
     "<tool_call>\n{\"name\": \"search\"}\n</tool_call>\n<tool_call>\nsearch(1)\n</tool_call>",
     "\n<tool_call>\nsearch(1)\n</tool_call>",
     {{"search", "{}"}}},
    // Literals of another language, a bracket too many, one too few.
    {kHermes,
     "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"on\": True, 'x': [NaN, “é”]}}\n"
     "</tool_call>\n",
     "",
     {{"search", "{\"on\": True, 'x': [NaN, “é”]}"}}},
    {kHermes,
     "<tool_call>\n{\"name\": \"search\", \"arguments\": {}}}\n</tool_call>\n<tool_call>\n"
     "{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call> So </tool_call>",
     "} So </tool_call>",
     {{"search", "{}"}, {"get_weather", "{}"}}},
    {kHermes,
     "<tool_call>\n{\"name\": \"search\", \"arguments\": {\"a\": {\"b\": 1}\n</tool_call>\nDone.",
     "\nDone.",
     {{"search", "{\"a\": {\"b\": 1}\n"}}},
    {kHermes, "x <tool_call>\n{\"nam", "x <tool_call>\n{\"nam", {}},
    {kHermes, "<tool_call>\nsearch(1)\n</tool_call>", "<tool_call>\nsearch(1)\n</tool_call>", {}},
    {kHermes,
     "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>",
     "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>",
     {}},
    {kHermes,
     "<tool_call>{\"name\": \"search\", \"arguments\": [1]}</tool_call>",
     "<tool_call>{\"name\": \"search\", \"arguments\": [1]}</tool_call>",
     {}},
    {kLlama3,
     R"({"name": "search", "parameters": {"q": "a; b"}})",
     "",
     {{"search", R"({"q": "a; b"})"}}},
    {kLlama3,
     R"({"name": "search", "parameters": {}}; {"name": "get_weather", "parameters": {"x":1}})",
     "",
     {{"search", "{}"}, {"get_weather", "{\"x\":1}"}}},
    // What stands behind a call and is none is text, all of it.
    {kLlama3,
     R"({"name": "search", "parameters": {}} ; {"x":1})",
     R"( ; {"x":1})",
     {{"search", "{}"}}},
    {kLlama3, R"({"name": "search", "parameters": {}}; so)", "; so", {{"search", "{}"}}},
    {kLlama3, R"({"name": "search", "parameters": {}} ; )", "", {{"search", "{}"}}},
    {kLlama3, R"({"name": "search", "parameters": {}}; {"name)", R"(; {"name)", {{"search", "{}"}}},
    {kLlama3,
     R"(<|python_tag|>{"type": "function", "name": "other", "parameters": {}})",
     "",
     {{"other", "{}"}}},
    // An answer in JSON is no call, even one that looks like it.
    {kLlama3,
     R"({"name": "Ada", "parameters": {}} {"name": "search", "parameters": {}})",
     R"({"name": "Ada", "parameters": {}} {"name": "search", "parameters": {}})",
     {}},
    {kLlama3,
     R"(Use {"name": "search", "parameters": {}})",
     R"(Use {"name": "search", "parameters": {}})",
     {}},
    {kMistral,
     R"([TOOL_CALLS][{"name": "search", "arguments": {"q": "]"}, "id": "abcdefghi"}])",
     "",
     {{"search", R"({"q": "]"})"}}},
    {kMistral,
     R"(Yes.[TOOL_CALLS] [{"name": "search", "arguments": {}}, {"name": "get_weather", "arguments": {}}] )",
     "Yes.",
     {{"search", "{}"}, {"get_weather", "{}"}}},
    {kMistral, R"([TOOL_CALLS] {"name": "search", "arguments": {}})", "", {{"search", "{}"}}},
    {kMistral, "[TOOL_CALLS][", "[TOOL_CALLS][", {}},
    {kMistral, "[TOOL_CALLS][1]", "[TOOL_CALLS][1]", {}},
    {kMistralArgs,
     R"([TOOL_CALLS]search[ARGS]{"q": 1}[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{})",
     "",
     {{"search", R"({"q": 1})"}, {"get_weather", "{}"}}},
    {kMistralArgs, R"([TOOL_CALLS]search{"q": None})", "", {{"search", R"({"q": None})"}}},
    {kMistralArgs, R"([TOOL_CALLS]search{"q": 1})", "", {{"search", R"({"q": 1})"}}},
    {kMistralArgs, "[TOOL_CALLS]search[ARGS]nothing", "[TOOL_CALLS]search[ARGS]nothing", {}},
    {kDeepSeekV3,
     "So:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n{"
     "\"q\": "
     "\"```\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>function\n```"
     "json\n"
     "{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "So:",
     {{"search", "{\"q\": \"```\"}"}, {"function", "{}"}}},
    {kDeepSeekV31,
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>search<｜tool▁sep｜>{\"q\": 1}<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "",
     {{"search", "{\"q\": 1}"}, {"function", "{}"}}},
    {kDeepSeekV31,
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>search<｜tool▁sep｜>{}}<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "}",
     {{"search", "{}"}}},
    {kDeepSeekV31, "<｜tool▁calls▁begin｜>well", "<｜tool▁calls▁begin｜>well", {}},
    {kNone, "<tool_call>{\"name\": \"search\"}", "<tool_call>{\"name\": \"search\"}", {}},
};

TEST(ToolCallParser, ReadsEveryFormatHoweverItIsCut) {
  for (const Case& c : kCases) {
    const Parsed got = parse_all_ways(c.format, c.text);
    EXPECT_EQ(got.content, c.content) << c.text;
    ASSERT_EQ(got.calls.size(), c.calls.size()) << c.text;
    for (size_t i = 0; i < c.calls.size(); ++i) {
      EXPECT_EQ(got.calls[i].name, c.calls[i].first) << c.text;
      EXPECT_EQ(got.calls[i].arguments, c.calls[i].second) << c.text;
    }
  }
  // An id that comes before the arguments is the call's.
  const std::string with_id =
      R"([TOOL_CALLS][{"name": "search", "id": "abcdefghi", "arguments": {}}])";
  EXPECT_EQ(parse_all_ways(kMistral, with_id).calls.at(0).id, "abcdefghi");
}

TEST(ToolCallParser, SaysTheNameAsSoonAsTheArgumentsBegin) {
  ToolCallParser parser(kHermes, kTools);
  ToolText out;
  parser.push("<tool_call>\n{\"name\": \"search\", \"arguments\": ", out);
  EXPECT_TRUE(out.calls.empty());
  parser.push("{\"q\": \"ab", out);
  ASSERT_EQ(out.calls.size(), 1u);
  EXPECT_EQ(out.calls[0].name, "search");
  EXPECT_EQ(out.calls[0].arguments, "{\"q\": \"ab");
}

// A string of the language, drawn at random; short ones most of the time.
std::string draw_text(Grammar& g, Draws& draws, const std::string& preferred) {
  std::string text;
  Grammar::State state = g.start();
  while (text.size() < 4000) {
    const auto mask = g.allowed(state);
    std::vector<int> bytes;
    for (int b = 0; b < 256; ++b) {
      if ((*mask)[size_t(b) / 64] >> (b % 64) & 1) bytes.push_back(b);
    }
    if (g.accepts(state) && (bytes.empty() || draws.below(2) == 0)) return text;
    char next = char(bytes[size_t(draws.below(int(bytes.size())))]);
    for (const char c : preferred) {
      if (draws.below(2) == 0 && std::ranges::find(bytes, int(uint8_t(c))) != bytes.end()) {
        next = c;
        break;
      }
    }
    text += next;
    state = g.advance(state, std::string_view(&next, 1));
  }
  return "";
}

std::shared_ptr<const TokenTree> byte_tokens() {
  std::vector<std::string> bytes;
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, char(b));
  bytes.emplace_back();
  return std::make_shared<TokenTree>(bytes, std::vector<int32_t>{256});
}

// Whatever the grammar of a forced call writes, behind what the prompt wrote, the parser reads as
// calls of the functions, with arguments by their schemas, and as nothing else.
TEST(ToolCallGrammar, WritesWhatTheParserReads) {
  const Json weather = {{"type", "object"},
                        {"properties", {{"city", {{"type", "string"}, {"maxLength", 5}}}}},
                        {"required", {"city"}},
                        {"additionalProperties", false}};
  const Json referring = {
      {"type", "object"},
      {"properties", {{"n", {{"$ref", "#/$defs/n"}}}}},
      {"required", {"n"}},
      {"$defs", {{"n", {{"type", "integer"}, {"minimum", 3}, {"maximum", 5}}}}}};
  const auto tree = byte_tokens();
  Draws draws(3);
  for (const ToolFormat format :
       {kHermes, kLlama3, kMistral, kMistralArgs, kDeepSeekV3, kDeepSeekV31}) {
    for (const bool several : {false, true}) {
      for (const bool one : {false, true}) {
        ToolCallRule rule;
        rule.format = format;
        rule.several = several;
        rule.functions = {{"get_weather", weather}};
        if (!one)
          rule.functions.push_back({"search", referring}),
              rule.functions.push_back({"function", Json()});
        rule = ToolCallRule::parse(rule.text());  // as it is kept
        Grammar grammar(tool_call_rules(rule), tree);
        std::set<std::string> called;
        size_t most = 0;
        for (int i = 0; i < 60; ++i) {
          const std::string text = draw_text(grammar, draws, "\"}");
          ASSERT_NE(text, "");
          const Parsed got = parse_all_ways(format, text, rule.opened());
          EXPECT_EQ(got.content, "") << text;
          ASSERT_FALSE(got.calls.empty()) << text;
          most = std::max(most, got.calls.size());
          for (const ToolCallPiece& call : got.calls) {
            called.insert(call.name);
            const Json arguments = Json::parse(call.arguments);
            if (call.name == "get_weather") {
              EXPECT_TRUE(arguments.size() == 1 && arguments["city"].is_string()) << text;
            } else if (call.name == "search") {
              EXPECT_TRUE(arguments["n"] >= 3 && arguments["n"] <= 5) << text;
            } else {
              EXPECT_EQ(call.name, "function");
              EXPECT_EQ(arguments, Json::object());
            }
          }
          // Behind the prompt's own words it is a call in the format that models write by
          // themselves.
          const Parsed whole = parse(format, {rule.opening() + text});
          EXPECT_EQ(whole.calls.size(), got.calls.size()) << text;
        }
        EXPECT_EQ(called.size(), rule.functions.size());
        if (!several) EXPECT_EQ(most, 1u);
        if (several && (format == kHermes || format == kLlama3 || format == kMistral))
          EXPECT_GT(most, 1u);
      }
    }
  }
}

// Arguments are an object, whatever the schema leaves open.
TEST(ToolCallGrammar, WritesObjectsWhereTheSchemaDoesNotSaySo) {
  const auto tree = byte_tokens();
  Draws draws(4);
  for (const char* schema :
       {"{}", R"({"title": "F"})", R"({"items": {}})", R"({"minimum": 3})",
        R"({"type": "object", "nullable": true})", R"({"required": ["a"], "nullable": true})",
        R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"n": {"$ref": "#/$defs/a"}}}}})",
        R"({"anyOf": [{"type": "object"}, {"const": {"a": 1}}, {"enum": [{}, {"b": null}]}]})"}) {
    for (const ToolFormat format :
         {kHermes, kLlama3, kMistral, kMistralArgs, kDeepSeekV3, kDeepSeekV31}) {
      ToolCallRule rule;
      rule.format = format;
      rule.functions = {{"search", Json::parse(schema)}};
      Grammar grammar(tool_call_rules(rule), tree);
      for (int i = 0; i < 20; ++i) {
        // Where a value may be a number, or null, one is drawn at least now and then.
        const std::string text = draw_text(grammar, draws, i % 2 ? "5n\"}" : "\"}");
        ASSERT_NE(text, "") << schema;
        const Parsed got = parse(format, {text}, rule.opened());
        EXPECT_EQ(got.content, "") << text;
        ASSERT_EQ(got.calls.size(), 1u) << text;
        EXPECT_TRUE(Json::parse(got.calls.front().arguments).is_object()) << text;
      }
    }
  }
}

TEST(ToolCallGrammar, NamesTheToolWhoseSchemaIsWrong) {
  const auto why = [](const Json& parameters) -> std::string {
    ToolCallRule rule;
    rule.functions = {{"search", parameters}};
    try {
      tool_call_rules(rule);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  for (const char* other :
       {R"({"type": "string"})", R"({"type": ["object", "null"]})", R"({"const": 5})",
        R"({"enum": [{}, null]})", R"({"anyOf": [{"type": "object"}, {"type": "string"}]})",
        R"({"allOf": [{"title": "F"}]})", R"({"oneOf": [{"type": "object", "nullable": true}]})",
        R"({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}})",
        R"({"$ref": "#/$defs/a", "$defs": {"a": {"items": {}}}})"})
    EXPECT_EQ(why(Json::parse(other)),
              "tool search: parameters must be a schema of type \"object\" and nothing else")
        << other;
  EXPECT_NE(why({{"type", "object"}, {"not", Json::object()}}).find("tool search: schema"),
            std::string::npos);
  EXPECT_NE(why(Json::array()), "");
  EXPECT_EQ(why(Json::object()), "");
  EXPECT_THROW(ToolCallRule::parse("{}"), Error);
}

TEST(ToolFormat, IsReadOffTheTemplate) {
  EXPECT_EQ(tool_format_of("{% for m in messages %}{{ m.content }}{% endfor %}"), kNone);
  EXPECT_EQ(tool_format_of("{% if tools %}… <tool_call>\\n{\"name\": …"), kHermes);
  EXPECT_EQ(tool_format_of("{% if tools %}… <tool_call>\\n<function=…"), std::nullopt);
  EXPECT_EQ(tool_format_of("{% if tools %} [TOOL_CALLS] ["), kMistral);
  EXPECT_EQ(tool_format_of("{% if tools %} [TOOL_CALLS]… [ARGS]"), kMistralArgs);
  EXPECT_EQ(tool_format_of("tools ipython {\"name\": …, \"parameters\": …"), kLlama3);
  EXPECT_EQ(tool_format_of("<｜tool▁call▁begin｜> … ```json"), kDeepSeekV3);
  EXPECT_EQ(tool_format_of("<｜tool▁call▁begin｜>"), kDeepSeekV31);
  EXPECT_EQ(tool_format_of("{% if tools %} something else"), std::nullopt);
  for (const std::string& one : tool_format_names()) EXPECT_EQ(name(*find_tool_format(one)), one);
  EXPECT_EQ(find_tool_format("xml"), std::nullopt);
}

// Templates as their models were published with, where llama.cpp's sources are.
TEST(ToolFormat, OfPublishedTemplates) {
  const std::filesystem::path folder =
      std::filesystem::path(TUTTI_SOURCE_DIR) / ".cache/peers/llama.cpp/models/templates";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "run bench/peers/llama.cpp/fetch.sh";
  const std::vector<std::pair<const char*, std::optional<ToolFormat>>> expected{
      {"Qwen-Qwen2.5-7B-Instruct", kHermes},
      {"Qwen-Qwen3-0.6B", kHermes},
      {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", kHermes},
      {"ibm-granite-granite-4.0", kHermes},
      {"meta-llama-Llama-3.1-8B-Instruct", kLlama3},
      {"meta-llama-Llama-3.2-3B-Instruct", kLlama3},
      {"mistralai-Mistral-Nemo-Instruct-2407", kMistral},
      {"Mistral-Small-3.2-24B-Instruct-2506", kMistralArgs},
      {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", kDeepSeekV3},
      {"llama-cpp-deepseek-r1", kDeepSeekV3},
      {"deepseek-ai-DeepSeek-V3.1", kDeepSeekV31},
      {"microsoft-Phi-3.5-mini-instruct", kNone},
      {"Qwen3-Coder", std::nullopt},
      {"GLM-4.6", std::nullopt},
      {"openai-gpt-oss-120b", std::nullopt},
      {"meetkai-functionary-medium-v3.1", std::nullopt},
  };
  for (const auto& [model, format] : expected)
    EXPECT_EQ(tool_format_of(read_file(folder / (std::string(model) + ".jinja"))), format) << model;
}

}  // namespace
}  // namespace tutti::text
