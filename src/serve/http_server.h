// HTTP/1.1 on Boost.Beast: connections within limits, one handler for all requests. Runs on the
// thread that runs `net`.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "serve/http.h"
#include "serve/tls_files.h"

namespace tutti::serve {

namespace asio = boost::asio;

struct HttpLimits {
  int connections = 1024;                  // at the same time; more are answered with 503
  size_t header_bytes = size_t(32) << 10;  // 431
  size_t body_bytes = size_t(8) << 20;     // 413
  double read_seconds = 60;                // for a whole request; then the connection is closed
  double idle_seconds = 75;                // between two requests of a connection
  double write_seconds = 30;  // for an answer, or for what a stream has to say at a time
  size_t stream_bytes =
      size_t(1) << 20;       // of a stream that its client has not taken yet; more: it is dropped
  double ping_seconds = 30;  // of silence, then a comment in a stream of events
};

// A request and the way to answer it. Answered once: by respond(), or by begin_stream(), write() …
// end().
class HttpExchange {
 public:
  HttpExchange(asio::io_context& net, HttpRequest request, size_t stream_bytes)
      : request_(std::move(request)), wake_(net), stream_bytes_(stream_bytes) {}

  const HttpRequest& request() const { return request_; }
  // Of the thread that all of this belongs to.
  auto executor() { return wake_.get_executor(); }
  // Goes out with the answer, whichever it is.
  void add_header(std::string name, std::string value) {
    headers_.emplace_back(std::move(name), std::move(value));
  }
  void respond(HttpResponse response);
  void begin_stream(Headers headers);
  // An event of the stream. Dropped when the client is gone.
  void write(std::string bytes);
  void end();
  bool gone() const { return gone_; }  // any thread
  // Called once, when the client went away before the answer was whole.
  void on_gone(std::function<void()> listener) { listener_ = std::move(listener); }
  // When the answer has gone out, or the client away.
  void on_closed(std::function<void(int status)> listener) { closed_ = std::move(listener); }

 private:
  friend class HttpServer;  // its connections
  void wake();
  void set_gone();

  HttpRequest request_;
  asio::steady_timer wake_;  // expires never; cancelled when there is something to do
  size_t stream_bytes_;
  HttpResponse response_;
  Headers headers_;
  bool answered_ = false, streaming_ = false, ended_ = false;
  std::atomic<bool> gone_{false};
  bool half_closed_ = false;  // the client sends no more, and is to be asked whether it reads
  std::deque<std::string> queue_;
  size_t queued_ = 0;
  std::function<void()> listener_;
  std::function<void(int)> closed_;
};

class HttpServer {
 public:
  using Handler = std::function<void(std::shared_ptr<HttpExchange>)>;
  // Looks at a request whose body has not been read; an answer refuses it, and the connection ends.
  using HeaderCheck = std::function<std::optional<HttpResponse>(const HttpRequest&)>;

  // Listens at once. `check` may be empty. Throws Error(kSystem) naming address and port,
  // Error(kBadFile) naming a file of `tls`.
  HttpServer(asio::io_context& net, const std::string& host, uint16_t port, HttpLimits limits,
             Handler handler, HeaderCheck check = {}, const TlsFiles& tls = {});
  ~HttpServer();

  uint16_t port() const;  // the one taken, when 0 was asked for
  // Serves a connection that was accepted elsewhere as one of its own: any stream of bytes.
  void take(asio::ip::tcp::socket socket);
  // No more connections; idle ones are closed, and others when their answer is out.
  void stop_accepting();
  // Closes what is left.
  void close();

 private:
  struct Tls;
  template <class Stream>
  class Connection;
  void accept();
  void refuse_connection(asio::ip::tcp::socket socket) const;
  std::shared_ptr<class HttpConnection> connect(asio::ip::tcp::socket socket);

  asio::io_context& net_;
  HttpLimits limits_;
  Handler handler_;
  HeaderCheck check_;
  std::unique_ptr<Tls> tls_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer again_;
  int connections_ = 0;
  bool stopping_ = false;
  std::vector<std::weak_ptr<class HttpConnection>> open_;
};

}  // namespace tutti::serve
