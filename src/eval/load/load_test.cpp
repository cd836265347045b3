// The load generator against a server that does what it is told: when requests go out, what is made
// of right and wrong answers, what a client that goes away does.
#include "eval/load/load.h"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>

#include "base/error.h"
#include "eval/load/load_report.h"

namespace tutti::eval {
namespace {

using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

// What the server does with a body.
struct Act {
  std::vector<std::string> writes;
  int milliseconds = 0;  // before each
  bool close = false;    // afterwards
};

Act answer(const std::string& type, const std::string& body, const std::string& status = "200 OK") {
  return {{"HTTP/1.1 " + status + "\r\ncontent-type: " + type +
           "\r\ncontent-length: " + std::to_string(body.size()) + "\r\n\r\n" + body},
          0,
          false};
}

Act stream(const std::vector<std::string>& events, int milliseconds, bool end = true) {
  Act act;
  act.milliseconds = milliseconds;
  act.writes.push_back(
      "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
  for (const std::string& event : events) {
    const std::string data = "data: " + event + "\n\n";
    char size[16];
    std::snprintf(size, sizeof size, "%zx", data.size());
    act.writes.push_back(size + ("\r\n" + data) + "\r\n");
  }
  if (end) act.writes.emplace_back("0\r\n\r\n");
  act.close = !end;
  return act;
}

std::vector<std::string> tokens(int n) {
  std::vector<std::string> events(size_t(n), R"({"choices":[{"text":"x","finish_reason":null}]})");
  events.emplace_back(R"({"choices":[{"text":"","finish_reason":"length"}]})");
  events.push_back(R"({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":)" +
                   std::to_string(2 * n) + "}}");  // two tokens a piece
  events.emplace_back("[DONE]");
  return events;
}

class Server {
 public:
  explicit Server(asio::io_context& io) : io_(io), acceptor_(io, {tcp::v4(), 0}) {
    asio::co_spawn(io_, [this] { return accept(); }, asio::detached);
  }
  std::string url() const {
    return "http://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port());
  }

  std::function<Act(const std::string& body)> act;
  int connections = 0, requests = 0, now = 0, most = 0, cut = 0;
  std::vector<Clock::time_point> at;

 private:
  asio::awaitable<void> accept() {
    for (;;) {
      auto socket =
          std::make_shared<tcp::socket>(co_await acceptor_.async_accept(asio::use_awaitable));
      ++connections;
      asio::co_spawn(io_, [this, socket] { return serve(socket); }, asio::detached);
    }
  }

  asio::awaitable<void> serve(std::shared_ptr<tcp::socket> socket) {
    std::string data;
    for (;;) {
      const size_t head = co_await asio::async_read_until(*socket, asio::dynamic_buffer(data),
                                                          "\r\n\r\n", asio::use_awaitable);
      const size_t length_at = data.find("Content-Length: ");
      const size_t length = length_at < head ? std::stoul(data.substr(length_at + 16)) : 0;
      while (data.size() < head + length) {
        char part[4096];
        const size_t n = co_await socket->async_read_some(asio::buffer(part), asio::use_awaitable);
        data.append(part, n);
      }
      const std::string body = data.substr(head, length);
      data.erase(0, head + length);
      ++requests;
      at.push_back(Clock::now());
      most = std::max(most, ++now);
      const Act what = act(body);
      asio::steady_timer timer(io_);
      try {
        for (const std::string& bytes : what.writes) {
          timer.expires_after(std::chrono::milliseconds(what.milliseconds));
          co_await timer.async_wait(asio::use_awaitable);
          co_await asio::async_write(*socket, asio::buffer(bytes), asio::use_awaitable);
        }
      } catch (const boost::system::system_error&) {
        ++cut;
        --now;
        throw;
      }
      --now;
      if (what.close) co_return;
    }
  }

  asio::io_context& io_;
  tcp::acceptor acceptor_;
};

struct World {
  asio::io_context io{1};
  Server server{io};
  HttpClient client;
  LoadOptions options;

  explicit World(double timeout = 20)
      : client(io, parse_server_url(server.url()), "secret", timeout) {
    options.path = "/v1/completions";
    options.clients = 1;
  }
  LoadRun run(const std::vector<LoadRequest>& requests) {
    return run_load(io, client, requests, options);
  }
  LoadRun run(int requests) {
    LoadRequest one;
    one.body = "{}";
    return run(std::vector<LoadRequest>(size_t(requests), one));
  }
};

TEST(Load, closed_clients_take_turns_and_keep_their_connections) {
  World s;
  s.server.act = [](const std::string&) { return stream(tokens(3), 1); };
  s.options.clients = 4;
  size_t told = 0;
  s.options.on_progress = [&](size_t ended, size_t) { told = ended; };
  const LoadRun run = s.run(22);
  EXPECT_EQ(s.server.requests, 22);
  EXPECT_EQ(s.server.connections, 4);
  EXPECT_EQ(s.server.most, 4);
  EXPECT_EQ(run.most_in_flight, 4u);
  EXPECT_EQ(told, 22u);
  for (const LoadRecord& r : run.records) {
    EXPECT_EQ(r.outcome, LoadRecord::kCompleted) << r.failure << r.message;
    EXPECT_EQ(r.pieces, 3u);
    EXPECT_EQ(r.gaps.size(), 2u);
    EXPECT_EQ(r.output_tokens, 6u);
    EXPECT_EQ(r.prompt_tokens, 3u);
    EXPECT_TRUE(r.sent >= 0 && r.first_text > r.sent && r.end > r.first_text);
  }
}

TEST(Load, times_are_those_of_the_server) {
  World s;
  s.server.act = [](const std::string&) { return stream(tokens(5), 40); };
  const LoadRun run = s.run(1);
  const LoadRecord& r = run.records[0];
  // Head and first event: two waits; then one a piece. Timers never fire early.
  EXPECT_GE(r.first_text - r.sent, 0.080);
  EXPECT_EQ(r.gaps.size(), 4u);
  double last = r.first_text;
  for (const double gap : r.gaps) last += gap;
  EXPECT_GE(last - r.sent, 0.040 * 6);
  EXPECT_GE(r.end - r.sent, 0.040 * 10);
  const double any = 1e9;
  const auto good = [&](double first, double each) {
    return summarise(run, {LoadGoals{first, each, any}, LoadGoals{any, any, any}}).good;
  };
  const double first = r.first_text - r.sent;
  const double each = (r.end - r.first_text) / 9;  // of ten tokens
  EXPECT_EQ(good(1.01 * first, 1.01 * each), 1u);
  EXPECT_EQ(good(0.99 * first, 1.01 * each), 0u);
  EXPECT_EQ(good(1.01 * first, 0.99 * each), 0u);
}

TEST(Load, open_loops_send_whatever_the_server_does) {
  World s;
  s.options.clients = 0;
  s.server.act = [](const std::string&) { return stream(tokens(1), 100); };
  std::vector<LoadRequest> requests(5);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].body = "{}";
    requests[i].arrival = 0.05 * double(i);
  }
  const LoadRun run = s.run(requests);
  EXPECT_EQ(run.most_in_flight, 5u);  // 500 ms each
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_GE(run.records[i].sent, requests[i].arrival);
    EXPECT_EQ(run.records[i].outcome, LoadRecord::kCompleted);
  }
}

TEST(Load, a_client_that_goes_away_closes_its_connection) {
  World s;
  s.server.act = [](const std::string&) { return stream(tokens(100), 20); };
  std::vector<LoadRequest> requests(2);
  for (LoadRequest& r : requests) {
    r.body = "{}";
    r.cancel_after = 0.15;
  }
  const LoadRun run = s.run(requests);
  for (const LoadRecord& r : run.records) {
    EXPECT_EQ(r.outcome, LoadRecord::kCancelled);
    EXPECT_GE(r.end - r.sent, 0.15);
    EXPECT_LT(r.end - r.sent, 1.5);  // an answer takes two seconds
    EXPECT_GT(r.pieces, 0u);
  }
  EXPECT_EQ(s.server.connections, 2);
  while (s.server.now > 0) s.io.run_one();
  EXPECT_EQ(s.server.cut, 2);
  const LoadSummary sum = summarise(run, {LoadGoals{1, 1, 1}, LoadGoals{1, 1, 1}});
  EXPECT_TRUE(sum.cancelled == 2 && sum.completed == 0 && sum.output_tokens == 0);
}

TEST(Load, wrong_answers_are_counted_by_kind) {
  struct Case {
    Act act;
    const char *kind, *message;
  };
  const std::string text = R"({"choices":[{"text":"a","finish_reason":null}]})";
  const std::vector<Case> cases = {
      {answer("application/json", R"({"error":{"message":"queue full"}})", "429 Too Many Requests"),
       "HTTP 429", "queue full"},
      {answer("text/html", "<html>", "502 Bad Gateway"), "HTTP 502", "<html>"},
      {answer("text/html", "<html>hello"), "a wrong answer", "no JSON: <html>hello"},
      {answer("application/json", R"({"choices":[{"text":"a","finish_reason":"stop"}]})"),
       "a wrong answer", "a stream was asked for"},
      {stream({text}, 0), "a wrong answer", "without [DONE]"},
      {stream({text, "[DONE]"}, 0), "a wrong answer", "finish_reason"},
      {stream({text, R"({"error":{"message":"no pages"}})"}, 0), "a wrong answer", "no pages"},
      {stream({text}, 0, false), "the connection was closed before", ""},
      {{{"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab"}, 0, true},
       "the connection was closed before",
       ""},
      {{{}, 0, true}, "the connection was closed before", ""},
      {{{"hello there\r\n\r\n"}, 0, true}, "a broken answer", ""},
      {stream(tokens(3), 200), "no whole answer within the time", ""},
  };
  for (const Case& c : cases) {
    World s(0.5);
    s.server.act = [&](const std::string&) { return c.act; };
    const LoadRun run = s.run(1);
    const LoadRecord& r = run.records[0];
    EXPECT_EQ(r.outcome, LoadRecord::kFailed);
    EXPECT_NE(r.failure.find(c.kind), std::string::npos) << r.failure << " for " << c.kind;
    EXPECT_NE(r.message.find(c.message), std::string::npos) << r.message << " for " << c.message;
    const LoadSummary sum = summarise(run, {LoadGoals{1, 1, 1}, LoadGoals{1, 1, 1}});
    EXPECT_EQ(sum.failed, 1u);
    EXPECT_EQ(sum.failures.at(r.failure).count, 1u);
  }
}

TEST(Load, nobody_there) {
  asio::io_context io(1);
  uint16_t port = 0;
  {
    tcp::acceptor free(io, {tcp::v4(), 0});
    port = free.local_endpoint().port();
  }
  HttpClient client(io, parse_server_url("127.0.0.1:" + std::to_string(port)), "", 5);
  LoadRequest request;
  request.body = "{}";
  LoadOptions options;
  options.clients = 2;
  const LoadRun run = run_load(io, client, std::vector<LoadRequest>(4, request), options);
  for (const LoadRecord& r : run.records) {
    EXPECT_EQ(r.outcome, LoadRecord::kFailed);
    EXPECT_NE(r.failure.find("no connection"), std::string::npos) << r.failure;
  }
  EXPECT_THROW(client.fetch({"GET", "/v1/models"}), Error);
}

TEST(Load, a_connection_that_died_between_two_requests_is_made_anew) {
  World s;
  s.server.act = [&](const std::string&) {
    Act act = stream(tokens(1), 0);
    act.close = s.server.requests == 1;  // without saying so
    return act;
  };
  const LoadRun run = s.run(3);
  for (const LoadRecord& r : run.records)
    EXPECT_EQ(r.outcome, LoadRecord::kCompleted) << r.failure << r.message;
  EXPECT_EQ(s.server.requests, 3);
  EXPECT_EQ(s.server.connections, 2);
}

TEST(Load, abandoned_runs_end_at_once) {
  World s;
  s.options.clients = 3;
  s.server.act = [](const std::string&) { return stream(tokens(1000), 20); };
  asio::steady_timer timer(s.io, std::chrono::milliseconds(150));
  timer.async_wait([&](const boost::system::error_code&) { s.client.abandon(); });
  const auto start = Clock::now();
  const LoadRun run = s.run(10);
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 5);
  EXPECT_TRUE(run.interrupted);
  EXPECT_EQ(s.server.requests, 3);
  for (const LoadRecord& r : run.records) EXPECT_EQ(r.outcome, LoadRecord::kInterrupted);
}

TEST(Load, whole_answers) {
  World s;
  s.options.stream = false;
  s.server.act = [](const std::string& body) {
    EXPECT_EQ(body, "{}");
    return answer("application/json", R"({"choices":[{"text":"ab","finish_reason":"stop"}],)"
                                      R"("usage":{"prompt_tokens":4,"completion_tokens":2}})");
  };
  const LoadRun run = s.run(2);
  const LoadSummary sum = summarise(run, {LoadGoals{0, 0, 9}, LoadGoals{0, 0, 9}});
  EXPECT_EQ(sum.completed, 2u);
  EXPECT_EQ(sum.good, 2u);  // there is no time of a first text to be held against anything
  EXPECT_EQ(sum.output_tokens, 4u);
  EXPECT_EQ(sum.first_token.count, 0u);
}

TEST(LoadReport, distributions) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Distribution d = distribution_of(values);
  EXPECT_EQ(d.count, 100u);
  EXPECT_EQ(d.mean, 50.5);
  EXPECT_NEAR(d.deviation, std::sqrt((100. * 100 - 1) / 12), 1e-9);  // of 1 … n
  EXPECT_TRUE(d.median == 51 && d.p90 == 91 && d.p99 == 100 && d.most == 100);
  EXPECT_EQ(distribution_of({}).count, 0u);
}

}  // namespace
}  // namespace tutti::eval
