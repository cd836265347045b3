// What comes from a server, whole or cut anywhere, right or wrong.
#include <gtest/gtest.h>

#include "base/error.h"
#include "eval/load/answer_reader.h"
#include "eval/load/event_stream.h"
#include "eval/load/server_address.h"

namespace tutti::eval {
namespace {

using Events = std::vector<std::string>;

Events read_in(const std::string& text, size_t piece) {
  Events events;
  EventStream stream([&](std::string_view data) { events.emplace_back(data); });
  for (size_t at = 0; at < text.size(); at += piece)
    EXPECT_TRUE(stream.feed(std::string_view(text).substr(at, piece)));
  return events;
}

TEST(EventStream, is_the_same_however_it_is_cut) {
  const std::string text =
      ": a comment\n\ndata: one\n\nevent: x\ndata:two\ndata: lines\nid: 7\n\n"
      "data: \r\n\r\ndata: three\r\rdata\n\ndatax: no\n\n:data: no\n\ndata: not ended\n";
  const Events expected = {"one", "two\nlines", "", "three", ""};
  for (size_t piece = 1; piece <= text.size(); ++piece)
    EXPECT_EQ(read_in(text, piece), expected) << piece;
}

TEST(EventStream, refuses_an_event_without_end) {
  EventStream stream([](std::string_view) {});
  const std::string line = "data: " + std::string(1 << 20, 'x') + "\n";
  int fed = 0;
  while (stream.feed(line) && fed < 100) ++fed;
  EXPECT_EQ(fed, 15);  // of 16 MiB
}

TEST(AnswerReader, takes_times_and_counts_from_a_stream) {
  AnswerReader reader;
  reader.event(R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]})", 1.0);
  EXPECT_LT(reader.first_text(), 0);
  reader.event(R"({"choices":[{"index":0,"delta":{"content":"a"}}]})", 2.0);
  reader.event(R"({"choices":[{"index":0,"delta":{"reasoning_content":"b"}}]})", 2.5);
  reader.event(R"({"choices":[{"index":0,"text":"c"}]})", 3.5);
  EXPECT_EQ(reader.output_tokens(), 3u);  // nothing better is known yet
  reader.event(R"({"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null})",
               4.0);
  reader.event(R"({"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,
                   "prompt_tokens_details":{"cached_tokens":5}}})",
               4.0);
  EXPECT_FALSE(reader.done());
  reader.event("[DONE]", 4.0);
  EXPECT_TRUE(reader.done());
  EXPECT_EQ(reader.error(), "");
  EXPECT_EQ(reader.first_text(), 2.0);
  EXPECT_EQ(reader.last_text(), 3.5);
  EXPECT_EQ(reader.gaps(), (std::vector<double>{0.5, 1.0}));
  EXPECT_EQ(reader.pieces(), 3u);
  EXPECT_EQ(reader.prompt_tokens(), 7u);
  EXPECT_EQ(reader.cached_tokens(), 5u);
  EXPECT_EQ(reader.output_tokens(), 9u);
}

TEST(AnswerReader, says_what_is_wrong) {
  const auto error_after = [](std::vector<std::string> events) {
    AnswerReader reader;
    for (const std::string& event : events) reader.event(event, 0);
    return reader.error();
  };
  EXPECT_NE(error_after({"<html>"}).find("no JSON: <html>"), std::string::npos);
  EXPECT_NE(error_after({"[1]"}).find("no JSON object"), std::string::npos);
  EXPECT_NE(error_after({R"({"a":1})"}).find("no choices"), std::string::npos);
  EXPECT_EQ(error_after({R"({"error":{"message":"out of\npages"}})"}), "out of pages");
  EXPECT_NE(error_after({R"({"choices":[{"text":"a"}]})", "[DONE]"}).find("finish_reason"),
            std::string::npos);
  AnswerReader whole;
  whole.whole(R"({"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]})");
  EXPECT_EQ(whole.error(), "");
  EXPECT_TRUE(whole.done());
  EXPECT_LT(whole.first_text(), 0);  // nobody knows when it came
  EXPECT_FALSE(whole.counted());
  EXPECT_EQ(error_message(R"({"detail":"x"})"), "x");
  EXPECT_EQ(error_message("\x01\xff"), "  ");
}

TEST(ServerAddress, reads_what_users_write) {
  const auto read = [](const char* url) {
    const ServerAddress a = parse_server_url(url);
    return a.host_and_port() + a.root;
  };
  EXPECT_EQ(read("http://127.0.0.1:8080"), "127.0.0.1:8080");
  EXPECT_EQ(read("127.0.0.1:8080/v1/"), "127.0.0.1:8080");
  EXPECT_EQ(read("http://example/api/v1"), "example:80/api");
  EXPECT_EQ(read("http://[::1]:9/v1"), "[::1]:9");
  EXPECT_EQ(read("[::1]"), "[::1]:80");
  for (const char* bad : {"", "http://", "https://a", "ftp://a", "a:", "a:x", "a:0", "a:65536",
                          "a:123456", "[::1", "[::1]9", "a b", "u@h", "a/ b", "http:///v1"})
    EXPECT_THROW(read(bad), Error) << bad;
}

}  // namespace
}  // namespace tutti::eval
