// HTTP/1.1 for load generators: any number of calls at a time on one thread, connections kept and
// used again, bodies handed on as they arrive.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "eval/load/server_address.h"

namespace tutti::eval {

namespace asio = boost::asio;

struct HttpCall {
  std::string method = "GET";
  std::string path;           // below the server's root, such as "/v1/models"
  std::string body;           // JSON; empty: none
  double give_up_after = -1;  // seconds, then the connection is closed as a client's that goes away
  std::function<void(int status, std::string_view type)> on_head;
  std::function<bool(std::string_view bytes)> on_body;  // false: enough, the answer is of no use

  HttpCall() = default;
  HttpCall(std::string verb, std::string where, std::string what = "")
      : method(std::move(verb)), path(std::move(where)), body(std::move(what)) {}
};

struct HttpOutcome {
  enum End : uint8_t {
    kWhole,    // the answer is here, whatever its status
    kGivenUp,  // give_up_after, or abandon()
    kFailed,   // `why`: no connection, no answer in time, a broken one
  } end = kFailed;
  int status = 0;  // 0: no head came
  std::string why;
};

class HttpClient {
 public:
  // `key` may be empty. A call takes `timeout` seconds at most.
  HttpClient(asio::io_context& io, ServerAddress address, std::string key, double timeout);
  ~HttpClient();

  // `call` must live as long as the coroutine.
  asio::awaitable<HttpOutcome> call(const HttpCall& call);
  // Gives all calls up, those to come too.
  void abandon();
  bool abandoned() const { return abandoned_; }
  const ServerAddress& address() const { return address_; }
  // The whole of an answer, for calls outside of any measurement: runs `io` until it is here.
  // Throws Error(kSystem) naming the URL when there is none.
  struct Answer {
    int status = 0;
    std::string type, body;
  };
  Answer fetch(HttpCall call);

 private:
  struct Connection;
  asio::awaitable<std::string> connect(Connection& connection);
  asio::awaitable<HttpOutcome> exchange(Connection& connection, const HttpCall& call, bool& keep,
                                        bool& untouched);

  asio::io_context& io_;
  ServerAddress address_;
  std::string key_;
  double timeout_;
  bool abandoned_ = false;
  std::vector<std::shared_ptr<Connection>> idle_;
  std::vector<std::weak_ptr<Connection>> busy_;
};

}  // namespace tutti::eval
