#include "eval/load/http_client.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <tuple>

#include "base/error.h"

namespace tutti::eval {

namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

namespace {

constexpr size_t kMostAnswerBytes = size_t(64) << 20;
constexpr auto kQuietly = asio::as_tuple(asio::use_awaitable);

// The other side had closed the connection: not a timeout, behind which it may be at work.
bool closed(const boost::system::error_code& error) {
  return error == http::error::end_of_stream || error == asio::error::connection_reset ||
         error == asio::error::broken_pipe;
}

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(int64_t(seconds * 1e9));
}

}  // namespace

struct HttpClient::Connection {
  explicit Connection(asio::io_context& io) : stream(io), give_up(io) {}

  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  asio::steady_timer give_up;
  bool given_up = false;
  uint64_t call = 0;  // whose it is now

  void close() {
    given_up = true;
    boost::system::error_code ignored;
    stream.socket().close(ignored);
  }
};

HttpClient::HttpClient(asio::io_context& io, ServerAddress address, std::string key, double timeout)
    : io_(io), address_(std::move(address)), key_(std::move(key)), timeout_(timeout) {}

HttpClient::~HttpClient() = default;

void HttpClient::abandon() {
  abandoned_ = true;
  for (const auto& weak : busy_) {
    if (const auto connection = weak.lock()) connection->close();
  }
}

// What went wrong; empty: nothing.
asio::awaitable<std::string> HttpClient::connect(Connection& connection) {
  tcp::resolver resolver(io_);
  const auto [unknown, places] =
      co_await resolver.async_resolve(address_.host, address_.port, kQuietly);
  if (unknown) co_return "the host is unknown (" + unknown.message() + ")";
  if (connection.given_up) co_return "given up";
  connection.stream.expires_after(nanoseconds(timeout_));
  const auto [error, place] = co_await connection.stream.async_connect(places, kQuietly);
  if (error) co_return "no connection (" + error.message() + ")";
  boost::system::error_code ignored;
  connection.stream.socket().set_option(tcp::no_delay(true), ignored);
  co_return "";
}

asio::awaitable<HttpOutcome> HttpClient::exchange(Connection& connection, const HttpCall& call,
                                                  bool& keep, bool& untouched) {
  HttpOutcome outcome;
  keep = false;
  untouched = false;  // the server cannot have seen the call: it may be made again
  http::request<http::string_body> request(http::string_to_verb(call.method),
                                           address_.root + call.path, 11);
  request.set(http::field::host, address_.host_and_port());
  request.set(http::field::user_agent, "tutti bench serve");
  if (!key_.empty()) request.set(http::field::authorization, "Bearer " + key_);
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = call.body;
  request.prepare_payload();
  connection.stream.expires_after(nanoseconds(timeout_));
  auto [error, n] = co_await http::async_write(connection.stream, request, kQuietly);
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  if (!error) {
    std::tie(error, n) =
        co_await http::async_read_header(connection.stream, connection.buffer, parser, kQuietly);
  }
  untouched = closed(error) && !parser.got_some() && connection.buffer.size() == 0;
  if (!error) {
    outcome.status = parser.get().result_int();
    if (call.on_head) call.on_head(outcome.status, parser.get()[http::field::content_type]);
    std::array<char, 16384> bytes;
    while (!error && !parser.is_done()) {
      parser.get().body().data = bytes.data();
      parser.get().body().size = bytes.size();
      std::tie(error, n) =
          co_await http::async_read_some(connection.stream, connection.buffer, parser, kQuietly);
      if (error == http::error::need_buffer) error = {};
      const size_t got = bytes.size() - parser.get().body().size;
      if (got > 0 && call.on_body && !call.on_body({bytes.data(), got})) {
        outcome.why = "an answer of no use";
        co_return outcome;
      }
    }
  }
  if (connection.given_up) {
    outcome.end = HttpOutcome::kGivenUp;
  } else if (error == beast::error::timeout) {
    outcome.why = "no whole answer within the time that --timeout gives";
  } else if (error == http::error::end_of_stream || error == http::error::partial_message) {
    outcome.why = "the connection was closed before the answer was whole";
  } else if (error) {
    outcome.why = "a broken answer (" + error.message() + ")";
  } else {
    outcome.end = HttpOutcome::kWhole;
    keep = parser.keep_alive();
  }
  co_return outcome;
}

asio::awaitable<HttpOutcome> HttpClient::call(const HttpCall& call) {
  HttpOutcome outcome;
  if (abandoned_) {
    outcome.end = HttpOutcome::kGivenUp;
    co_return outcome;
  }
  const auto give_up_at = std::chrono::steady_clock::now() + nanoseconds(call.give_up_after);
  for (;;) {
    const bool used_before = !idle_.empty();
    std::shared_ptr<Connection> connection;
    if (used_before) {
      connection = std::move(idle_.back());
      idle_.pop_back();
    } else {
      connection = std::make_shared<Connection>(io_);
    }
    std::erase_if(busy_, [](const auto& weak) { return weak.expired(); });
    busy_.push_back(connection);
    const uint64_t number = ++connection->call;
    if (call.give_up_after >= 0) {
      connection->give_up.expires_at(give_up_at);
      connection->give_up.async_wait([weak = std::weak_ptr<Connection>(connection),
                                      number](const boost::system::error_code& error) {
        const auto still = weak.lock();
        // It may come when the call has just ended, and another has the connection.
        if (!error && still && still->call == number) still->close();
      });
    }
    bool keep = false, untouched = false;
    outcome = HttpOutcome();
    if (!used_before) outcome.why = co_await connect(*connection);
    if (connection->given_up) {
      outcome.end = HttpOutcome::kGivenUp;
    } else if (outcome.why.empty()) {
      outcome = co_await exchange(*connection, call, keep, untouched);
    }
    connection->give_up.cancel();
    ++connection->call;
    if (keep && !connection->given_up) {
      std::erase_if(busy_, [&](const auto& weak) { return weak.lock() == connection; });
      connection->stream.expires_never();
      idle_.push_back(std::move(connection));
    }
    // A server may close a connection that was idle just when it is used again.
    const bool stale = used_before && untouched && outcome.end == HttpOutcome::kFailed;
    if (!stale) co_return outcome;
  }
}

HttpClient::Answer HttpClient::fetch(HttpCall call) {
  Answer answer;
  call.on_head = [&](int status, std::string_view type) {
    answer.status = status;
    answer.type = std::string(type);
  };
  call.on_body = [&](std::string_view bytes) {
    answer.body += bytes;
    return answer.body.size() <= kMostAnswerBytes;
  };
  HttpOutcome outcome;
  std::exception_ptr failure;
  bool done = false;
  asio::co_spawn(
      io_, [&]() -> asio::awaitable<void> { outcome = co_await this->call(call); },
      [&](std::exception_ptr error) {
        failure = error;
        done = true;
      });
  io_.restart();
  while (!done && io_.run_one()) {
  }
  if (failure) std::rethrow_exception(failure);
  const std::string url = "http://" + address_.host_and_port() + address_.root + call.path;
  if (outcome.end == HttpOutcome::kGivenUp) throw Error(ErrorKind::kCancelled, url + ": given up");
  if (outcome.end == HttpOutcome::kFailed)
    throw Error(ErrorKind::kSystem, url + ": " + outcome.why + "; is a server running there?");
  return answer;
}

}  // namespace tutti::eval
