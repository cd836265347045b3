// Long texts are encoded beside the engine: the net thread, which all connections wait for, goes on
// meanwhile. As engine and net thread are polled by hand here, what the net thread does itself is
// done before the engine's turn, and all else after it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "serve/tiny_server.h"

namespace tutti::serve {
namespace {

using nlohmann::json;

struct Asked {
  int before = 0, after = 0;  // status before the engine had its turn, 0: no answer; and in the end
  json body;
};

int status_of(const std::string& answer) {
  return answer.empty() ? 0 : std::stoi(answer.substr(9, 3));
}

class LongTexts : public testing::Test {
 protected:
  Asked ask(const std::string& path, const json& body) {
    TinyClient client(server_.connect()), other(server_.connect());
    server_.send(client, post(path, body.dump()));
    // Others are answered while it is read, and while it waits for the engine.
    server_.send(other, "GET /health HTTP/1.1\r\n\r\n");
    while (other.receive()) {
    }
    EXPECT_EQ(status_of(other.received()), 200);
    server_.read();
    while (client.receive()) {
    }
    Asked asked;
    asked.before = status_of(client.received());
    server_.settle(client);
    asked.after = status_of(client.received());
    const size_t end = client.received().find("\r\n\r\n");
    if (end != std::string::npos)
      asked.body = json::parse(client.received().substr(end), nullptr, false);
    client.end();
    other.end();
    server_.settle(client);
    server_.settle(other);
    return asked;
  }

  static json chat(const std::string& text, int messages = 1) {
    json list = json::array();
    for (int i = 0; i < messages; ++i) list.push_back({{"role", "user"}, {"content", text}});
    return {{"messages", list}, {"max_tokens", 2}};
  }

  TinyServer server_;
  const std::string long_ = std::string(100'000, 'a'), short_ = "the sea";
};

TEST_F(LongTexts, OfAChatAreEncodedBesideTheEngine) {
  const Asked asked = ask("/v1/chat/completions", chat(long_));
  EXPECT_EQ(asked.before, 0);
  EXPECT_EQ(asked.after, 400);
  EXPECT_EQ(asked.body["error"]["code"], "context_length_exceeded") << asked.body;
  EXPECT_EQ(asked.body["error"]["param"], "messages");
  // What is wrong with it otherwise is said at once.
  json wrong = chat(long_);
  wrong["top_k"] = -5;
  EXPECT_EQ(ask("/v1/chat/completions", wrong).before, 400);
}

TEST_F(LongTexts, OfManyMessagesAreWrittenBesideTheEngine) {
  const Asked asked = ask("/v1/chat/completions", chat("a", 3000));
  EXPECT_EQ(asked.before, 0);
  EXPECT_EQ(asked.after, 400);
  EXPECT_EQ(asked.body["error"]["code"], "context_length_exceeded") << asked.body;
}

// The same chat, short and padded with what no template reads: the same answer.
TEST_F(LongTexts, AreAnsweredLikeShortOnes) {
  json body = chat(short_);
  body["temperature"] = 0;
  const Asked brief = ask("/v1/chat/completions", body);
  body["user"] = long_;
  const Asked padded = ask("/v1/chat/completions", body);
  EXPECT_EQ(padded.before, 0);
  EXPECT_EQ(padded.after, 200);
  EXPECT_EQ(padded.body["choices"], brief.body["choices"]);
  EXPECT_EQ(padded.body["usage"], brief.body["usage"]);
}

TEST_F(LongTexts, OfACompletionAreEncodedBesideTheEngine) {
  const Asked one = ask("/v1/completions", {{"prompt", long_}, {"max_tokens", 2}});
  EXPECT_EQ(one.before, 0);
  EXPECT_EQ(one.after, 400);
  EXPECT_EQ(one.body["error"]["param"], "prompt") << one.body;
  // Of several prompts together; each is within the context.
  const std::string half(40'000, 'a');
  json two{{"prompt", {half, half}}, {"max_tokens", 0}, {"echo", true}};
  const Asked both = ask("/v1/completions", two);
  EXPECT_EQ(both.before, 0);
  EXPECT_EQ(both.after, 400);
}

TEST_F(LongTexts, AreTokenizedBesideTheEngine) {
  const Asked brief = ask("/tokenize", {{"content", short_}});
  EXPECT_EQ(brief.before, 200);  // a short one does not wait for the engine
  const Asked longer = ask("/tokenize", {{"content", long_}, {"with_pieces", true}});
  EXPECT_EQ(longer.before, 0);
  ASSERT_EQ(longer.after, 200);
  EXPECT_EQ(longer.body["tokens"].size(), longer.body["count"]);
  EXPECT_EQ(longer.body["pieces"].size(), longer.body["count"]);
  const Asked back = ask("/detokenize", {{"tokens", longer.body["tokens"]}});
  EXPECT_EQ(back.before, 0);
  ASSERT_EQ(back.after, 200);
  EXPECT_EQ(back.body["content"], long_);
  EXPECT_EQ(ask("/tokenize", {{"content", 5}, {"x", long_}}).before, 400);
}

}  // namespace
}  // namespace tutti::serve
