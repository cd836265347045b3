#include "serve/text_request.h"

#include <gtest/gtest.h>

#include "serve/api_error.h"

namespace tutti::serve {
namespace {

using Kind = TextRequest::Kind;
using Json = nlohmann::ordered_json;

TextRequest chat(Json body, RequestLimits limits = {}) {
  if (!body.contains("messages"))
    body["messages"] = Json::array({{{"role", "user"}, {"content", "hi"}}});
  return read_text_request(Kind::kChat, body.dump(), limits);
}

// The field that an error names.
std::string fault(Kind kind, const Json& body, const RequestLimits& limits = {}) {
  try {
    read_text_request(kind, body.dump(), limits);
  } catch (const ApiError& e) {
    return e.param;
  }
  return "none";
}

TEST(TextRequest, DefaultsAreOpenAis) {
  const TextRequest r = chat({});
  EXPECT_EQ(r.options.sampling.temperature, 1.0f);
  EXPECT_EQ(r.options.max_tokens, -1);
  EXPECT_EQ(r.options.n, 1);
  EXPECT_FALSE(r.options.seed || r.stream);
  const TextRequest c = read_text_request(Kind::kCompletion, R"({"prompt": "a"})", {});
  EXPECT_EQ(c.options.max_tokens, 16);
  EXPECT_EQ(c.options.sampling.logprobs, -1);
}

TEST(TextRequest, NullsAndTwinsAndSynonyms) {
  EXPECT_EQ(chat({{"temperature", nullptr}, {"n", nullptr}, {"stop", nullptr}}).options.n, 1);
  EXPECT_EQ(chat({{"max_tokens", 7}}).options.max_tokens, 7);
  EXPECT_EQ(chat({{"max_tokens", -1}}).options.max_tokens, -1);
  EXPECT_EQ(chat({{"max_completion_tokens", 8.0}}).options.max_tokens, 8);
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  EXPECT_EQ(
      fault(Kind::kChat, {{"messages", messages}, {"max_tokens", 7}, {"max_completion_tokens", 8}}),
      "max_tokens");
  EXPECT_EQ(chat({{"top_k", -1}}).options.sampling.top_k, 0);
  EXPECT_EQ(chat({{"repeat_penalty", 1.5}}).options.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(*chat({{"seed", -5}}).options.seed, uint64_t(-5));
}

TEST(TextRequest, PartsOfTextAreJoined) {
  const Json parts =
      Json::array({{{"type", "text"}, {"text", "one "}}, {{"type", "text"}, {"text", "two"}}});
  const TextRequest r = chat({{"messages",
                               {{{"role", "developer"}, {"content", "be brief"}},
                                {{"role", "user"}, {"content", parts}}}}});
  EXPECT_EQ(r.messages[0]["role"], "system");
  EXPECT_EQ(r.messages[1]["content"], "one two");
  EXPECT_EQ(fault(Kind::kChat,
                  {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}}),
            "messages");
}

TEST(TextRequest, ImagesStandInTheRequestItself) {
  const auto image = [](const Json& url) {
    return Json{{"type", "image_url"}, {"image_url", {{"url", url}}}};
  };
  const auto messages = [](const Json& parts, const char* role = "user") {
    return Json{{"messages", {{{"role", role}, {"content", parts}}}}};
  };
  const Json text{{"type", "text"}, {"text", "what"}};
  const Json good = image("data:image/png;base64,AAEC");
  const TextRequest r = chat(messages(Json::array({text, good, text, good})));
  const std::vector<std::byte> bytes{std::byte(0), std::byte(1), std::byte(2)};
  EXPECT_EQ(r.images, (std::vector{bytes, bytes}));
  const Json place{{"type", "image"}};
  EXPECT_EQ(r.messages[0]["content"], Json::array({text, place, text, place}));
  for (const Json& bad :
       {image("http://a/b.png"), image("file:///a.png"), image("data:image/png;base64,A"),
        image("data:image/png;base64,"), image("data:image/png,AAEC"), image(5),
        Json{{"type", "image_url"}, {"image_url", nullptr}}, Json{{"type", "image_url"}}}) {
    EXPECT_EQ(fault(Kind::kChat, messages(Json::array({text, bad}))), "messages") << bad;
  }
  EXPECT_EQ(fault(Kind::kChat, messages(Json::array({good}), "system")), "messages");
  EXPECT_EQ(fault(Kind::kChat, messages(Json(std::vector<Json>(17, good)))), "messages");
  EXPECT_EQ(chat(messages(Json(std::vector<Json>(16, good)))).images.size(), 16u);
}

TEST(TextRequest, PromptsOfEveryKind) {
  const auto prompts = [](const Json& prompt) {
    return read_text_request(Kind::kCompletion, Json{{"prompt", prompt}}.dump(), {}).prompts;
  };
  EXPECT_EQ(prompts("a").front().text, "a");
  EXPECT_EQ(prompts(Json::array({"a", "b"})).size(), 2u);
  EXPECT_EQ(*prompts(Json::array({1, 2})).front().ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(prompts(Json::array({Json::array({1}), Json::array({2, 3})})).size(), 2u);
  for (const Json& bad : {Json(1), Json::array({-1}), Json::array({1, "a"}),
                          Json::array({Json::array()}), Json::object()}) {
    EXPECT_EQ(fault(Kind::kCompletion, {{"prompt", bad}}), "prompt") << bad;
  }
}

// Every numeric field at its limits, and beyond.
TEST(TextRequest, RangesEndWhereTheySay) {
  struct Range {
    const char* field;
    double least, most, step;
  };
  for (const Range& r : {Range{"temperature", 0, 2, 0.01},
                         {"top_p", 0, 1, 0.01},
                         {"min_p", 0, 1, 0.01},
                         {"presence_penalty", -2, 2, 0.01},
                         {"frequency_penalty", -2, 2, 0.01},
                         {"n", 1, 64, 1},
                         {"max_tokens", 1, 1000, 1}}) {
    RequestLimits limits;
    limits.max_tokens = 1000;
    const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
    const auto with = [&](double x) {
      return fault(Kind::kChat, {{"messages", messages}, {r.field, x}}, limits);
    };
    EXPECT_EQ(with(r.least), "none") << r.field;
    EXPECT_EQ(with(r.most), "none") << r.field;
    EXPECT_EQ(with(r.least - r.step), r.field);
    EXPECT_EQ(with(r.most + r.step), r.field);
    EXPECT_EQ(fault(Kind::kChat, {{"messages", messages}, {r.field, "1"}}), r.field);
  }
}

TEST(TextRequest, StopsAreBounded) {
  RequestLimits limits;
  limits.stop_strings = 2;
  limits.stop_bytes = 3;
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  const auto with = [&](const Json& stop) {
    return fault(Kind::kChat, {{"messages", messages}, {"stop", stop}}, limits);
  };
  EXPECT_EQ(with("abc"), "none");
  EXPECT_EQ(with(Json::array({"a", "b"})), "none");
  EXPECT_EQ(with("abcd"), "stop");
  EXPECT_EQ(with(Json::array({"a", "b", "c"})), "stop");
  EXPECT_EQ(with(5), "stop");
}

const Json kTools = Json::array(
    {{{"type", "function"}, {"function", {{"name", "a"}}}},
     {{"type", "function"}, {"function", {{"name", "b"}, {"parameters", {{"type", "object"}}}}}}});

TEST(TextRequest, ToolsAndTheirChoice) {
  const TextRequest r = chat({{"tools", kTools}});
  ASSERT_EQ(r.tools.functions.size(), 2u);
  EXPECT_TRUE(r.tools.any() && !r.tools.forced() && r.tools.parallel);
  EXPECT_TRUE(r.tools.functions[0].parameters.is_null());
  EXPECT_EQ(r.tools.tools, kTools);
  EXPECT_FALSE(chat({{"tools", kTools}, {"tool_choice", "none"}}).tools.any());
  EXPECT_TRUE(chat({{"tools", kTools}, {"tool_choice", "required"}}).tools.forced());
  const TextRequest named = chat(
      {{"tools", kTools}, {"tool_choice", {{"type", "function"}, {"function", {{"name", "b"}}}}}});
  EXPECT_EQ(named.tools.named, "b");
  EXPECT_FALSE(chat({{"tools", Json::array()}}).tools.any());
  RequestLimits small;
  small.grammar_bytes = 20;
  EXPECT_NO_THROW(chat({{"tools", kTools}}, small));
  EXPECT_THROW(chat({{"tools", kTools}, {"tool_choice", "required"}}, small), ApiError);
}

TEST(TextRequest, ArgumentsOfEarlierCallsAreObjects) {
  const auto arguments = [](const Json& given) {
    const Json call{
        {"id", "1"}, {"type", "function"}, {"function", {{"name", "a"}, {"arguments", given}}}};
    const TextRequest r = chat({{"messages",
                                 {{{"role", "user"}, {"content", "hi"}},
                                  {{"role", "assistant"}, {"tool_calls", Json::array({call})}},
                                  {{"role", "tool"}, {"content", "4"}, {"tool_call_id", "1"}}}}});
    EXPECT_EQ(r.messages[1]["content"], "");
    return r.messages[1]["tool_calls"][0]["function"]["arguments"];
  };
  EXPECT_EQ(arguments("{\"x\": [1]}"), (Json{{"x", {1}}}));
  EXPECT_EQ(arguments("{\"x\": "), "{\"x\": ");  // what the model wrote, if it is no object
  EXPECT_EQ(arguments("7"), "7");
  EXPECT_EQ(arguments(Json{{"x", 1}}), (Json{{"x", 1}}));
  EXPECT_EQ(
      chat({{"messages", {{{"role", "assistant"}, {"content", "a"}, {"tool_calls", nullptr}}}}})
          .messages[0]
          .contains("tool_calls"),
      false);
}

TEST(TextRequest, TellsWhatItLooksFor) {
  FieldLog log;
  read_text_request(Kind::kChat, R"({"messages": [{"role": "user", "content": "a"}]})", {}, &log);
  EXPECT_EQ(log.at("top_p"), (Json{{"type", "number"}, {"minimum", 0.0}, {"maximum", 1.0}}));
  EXPECT_EQ(log.at("stream"), (Json{{"type", "boolean"}, {"default", false}}));
  EXPECT_TRUE(log.contains("tools") && log.contains("messages") && !log.contains("suffix"));
}

TEST(TextRequest, UnknownFieldsAreNamed) {
  EXPECT_EQ(chat({{"surprise", 1}, {"user", "u"}}).unknown, std::vector<std::string>{"surprise"});
  RequestLimits strict;
  strict.strict = true;
  EXPECT_EQ(fault(Kind::kCompletion, {{"prompt", "a"}, {"surprise", 1}}, strict), "surprise");
  EXPECT_EQ(fault(Kind::kCompletion, {{"prompt", "a"}, {"tools", nullptr}}, strict),
            "tools");  // no completion's field
}

TEST(ReadBody, IsBounded) {
  const auto nested = [](int n) {
    return "{\"a\":" + std::string(size_t(n), '[') + std::string(size_t(n), ']') + "}";
  };
  EXPECT_NO_THROW(read_body(nested(7), 8));
  EXPECT_THROW(read_body(nested(8), 8), ApiError);
  EXPECT_THROW(read_body(std::string(1 << 20, '['), 8), ApiError);
  EXPECT_THROW(read_body("[]", 8), ApiError);
}

}  // namespace
}  // namespace tutti::serve
