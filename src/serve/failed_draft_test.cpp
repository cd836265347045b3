// A draft model whose engine fails: its request gets an error that says so, the server goes on.
#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "decode/speculative/served_draft.h"
#include "serve/tiny_server.h"

namespace tutti::serve {
namespace {

using decode::speculative::ServedDraft;
using nlohmann::json;

constexpr const char* kMessage =
    "draft model: engine: a forward failed (threads: there is no core 1048576); ask again: nothing "
    "is drafted from now on, until the program starts anew";

// Its draft model's engine fails after `ticks` forwards.
class DraftingServer {
 public:
  explicit DraftingServer(uint64_t ticks) {
    asio::post(draft_.engine().io(), [this, ticks] {
      if (ticks == 0) return draft_.break_engine();
      draft_.engine().on_tick([this, ticks](const engine::TickReport& report) {
        if (report.tick == ticks) draft_.break_engine();
      });
    });
    server_.model().draft_model = draft_.model();
  }

  // The answer's bytes.
  std::string ask(const std::string& request) {
    TinyClient client(server_.connect());
    server_.send(client, request);
    server_.settle(client);
    client.end();
    server_.settle(client);
    return client.received();
  }
  std::string complete(json fields) {
    fields.update({{"prompt", "the sea"}, {"max_tokens", 40}, {"temperature", 0}});
    fields["ignore_eos"] = true;
    return ask(post("/v1/completions", fields.dump()));
  }
  std::string get(const std::string& path) { return ask("GET " + path + " HTTP/1.1\r\n\r\n"); }

 private:
  ServedDraft draft_{tensor::Type::kQ4_0};
  TinyServer server_;
};

int status_of(const std::string& answer) { return std::stoi(answer.substr(9, 3)); }
json body_of(const std::string& answer) {
  return json::parse(answer.substr(answer.find("\r\n\r\n")));
}
bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

const json kDraft{{"method", "draft"}, {"method_options", {{"adaptive", "0"}, {"draft_max", "2"}}}};

TEST(FailedDraft, IsAnErrorOfItsRequestAndTheServerGoesOn) {
  DraftingServer server(0);
  const json plain = body_of(server.complete({{"method", "plain"}}));
  EXPECT_TRUE(holds(server.get("/metrics"), "tutti:draft_model_up{model_name=\"tiny\"} 1"));

  const std::string failed = server.complete(kDraft);
  EXPECT_EQ(status_of(failed), 500);
  EXPECT_EQ(body_of(failed), (json{{"error",
                                    {{"message", kMessage},
                                     {"type", "server_error"},
                                     {"param", nullptr},
                                     {"code", nullptr}}}}));

  EXPECT_EQ(status_of(server.get("/health")), 200);
  EXPECT_TRUE(holds(server.get("/metrics"), "tutti:draft_model_up{model_name=\"tiny\"} 0"));
  // The same request again, and auto, which is lookup now.
  for (const auto& [fields, method] : {std::pair{kDraft, "draft"}, {json::object(), "lookup"}}) {
    const json answer = body_of(server.complete(fields));
    EXPECT_EQ(answer["choices"], plain["choices"]) << method;
    EXPECT_EQ(answer["usage"]["tutti"]["method"], method);
  }
}

TEST(FailedDraft, EndsAStreamWithAnEventThatSaysSo) {
  DraftingServer server(12);
  json fields = kDraft;
  fields["stream"] = true;
  const std::string answer = server.complete(fields);
  EXPECT_EQ(status_of(answer), 200);
  EXPECT_TRUE(holds(answer, "\"text\":")) << answer;  // some of it was out
  EXPECT_TRUE(holds(answer, std::string(R"(data: {"error":{"message":")") + kMessage)) << answer;
  EXPECT_FALSE(holds(answer, "[DONE]"));
  EXPECT_EQ(status_of(server.complete({{"method", "plain"}})), 200);
}

}  // namespace
}  // namespace tutti::serve
