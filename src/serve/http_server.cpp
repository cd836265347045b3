#include "serve/http_server.h"

#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <memory>

#include "base/error.h"

namespace tutti::serve {

namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

namespace {

template <class T>
using Awaitable = asio::awaitable<T>;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::string_view kPing = ": ping\n\n";  // a comment of a stream of events

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(int64_t(seconds * 1000));
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = char(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

HttpRequest header_of(const http::request<http::string_body>& message) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string_view target = message.target();
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message)
    request.headers.emplace_back(lower(field.name_string()), std::string(field.value()));
  return request;
}

HttpRequest request_of(http::request<http::string_body>&& message) {
  HttpRequest request = header_of(message);
  request.body = std::move(message.body());
  return request;
}

HttpResponse plain_error(int status, const char* type, const char* message) {
  HttpResponse response;
  response.status = status;
  response.body = std::string(R"({"error":{"message":")") + message + R"(","type":")" + type +
                  R"(","param":null,"code":null}})";
  return response;
}

}  // namespace

struct HttpServer::Tls {
  asio::ssl::context context{asio::ssl::context::tls_server};
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  explicit HttpConnection(asio::io_context& net) : timer_(net) {}
  virtual ~HttpConnection() = default;
  virtual void close() = 0;
  virtual Awaitable<void> run() = 0;
  // Between two requests there is nothing to lose.
  void close_if_idle() {
    if (!busy_) close();
  }

 protected:
  using Clock = std::chrono::steady_clock;

  // The connection is closed unless this or expires_never() is called again in time. One timer for
  // whatever it does: with TLS, what reads may write and what writes may read, and a limit of one
  // operation would be lost in another that has none.
  void expires_after(double seconds) {
    timer_.expires_after(milliseconds(seconds));
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const auto self = weak.lock();
      // Armed anew since it rang: then it is another's.
      if (!error && self && self->timer_.expiry() <= Clock::now()) self->close();
    });
  }
  void expires_never() { timer_.expires_at(Clock::time_point::max()); }

  bool busy_ = false;

 private:
  asio::steady_timer timer_;
};

// Over a TCP socket, or over TLS.
template <class Stream>
class HttpServer::Connection final : public HttpConnection {
  static constexpr bool kTls = !std::is_same_v<Stream, tcp::socket>;
  static constexpr size_t kReadAhead = size_t(64) << 10;  // of what follows a request
 public:
  // The buffer holds a header, or what is read of a body at a time; lines between chunks must fit,
  // too.
  template <class... Arguments>
  explicit Connection(HttpServer& server, Arguments&&... arguments)
      : HttpConnection(server.net_),
        server_(server),
        stream_(std::forward<Arguments>(arguments)...),
        buffer_(server.limits_.header_bytes + (size_t(128) << 10)) {}

  void close() override {
    boost::system::error_code ignored;
    socket().close(ignored);
  }

  Awaitable<void> run() override {
    try {
      if constexpr (kTls) {
        expires_after(server_.limits_.read_seconds);
        co_await stream_.async_handshake(asio::ssl::stream_base::server, asio::use_awaitable);
      }
      while (co_await serve_one() && !server_.stopping_) {
      }
      co_await linger();
    } catch (const std::exception&) {
      // The client went away, or a limit of time ended its request: there is nobody to tell.
    }
    close();
  }

 private:
  // False: the connection is to be closed.
  Awaitable<bool> serve_one() {
    const HttpLimits& limits = server_.limits_;
    http::request_parser<http::string_body> parser;
    parser.header_limit(uint32_t(limits.header_bytes));
    parser.body_limit(limits.body_bytes);
    // The first byte may take as long as an idle connection may last, the rest of a request its own
    // time.
    if (buffer_.size() == 0) {
      expires_after(limits.idle_seconds);
      const auto [error, n] = co_await stream_.async_read_some(buffer_.prepare(4096),
                                                               asio::as_tuple(asio::use_awaitable));
      if (error) co_return false;
      buffer_.commit(n);
    }
    busy_ = true;
    expires_after(limits.read_seconds);
    auto [error, read] = co_await http::async_read_header(stream_, buffer_, parser,
                                                          asio::as_tuple(asio::use_awaitable));
    // The parser's limit bounds what it holds, not the sum.
    if (!error && read > limits.header_bytes) error = http::error::header_limit;
    if (!error && server_.check_ && !parser.is_done()) {
      if (const auto refused = server_.check_(header_of(parser.get()))) {
        expires_after(limits.write_seconds);
        co_await send(*refused, false, parser.get().version(),
                      parser.get().method() == http::verb::head);
        co_return false;
      }
    }
    if (!error && parser.get()[http::field::expect] == "100-continue") {
      co_await asio::async_write(stream_, asio::buffer(kContinue), asio::use_awaitable);
    }
    if (!error) {
      std::tie(error, read) =
          co_await http::async_read(stream_, buffer_, parser, asio::as_tuple(asio::use_awaitable));
    }
    if (error) {
      co_await refuse(error, parser.get().method() == http::verb::head);
      co_return false;
    }
    const bool keep = parser.keep_alive();
    const unsigned version = parser.get().version();
    const bool head = parser.get().method() == http::verb::head;
    auto exchange = std::make_shared<HttpExchange>(server_.net_, request_of(parser.release()),
                                                   limits.stream_bytes);
    expires_never();
    server_.handler_(exchange);
    using namespace asio::experimental::awaitable_operators;
    bool kept = false;
    try {
      const auto first =
          co_await (answer(*exchange, keep, version, head) || watch(*exchange, version));
      kept = first.index() == 0 && std::get<0>(first);
    } catch (const std::exception&) {  // where both end at once, several errors in one
      exchange->set_gone();
    }
    if (!kept) exchange->set_gone();
    if (auto closed = std::exchange(exchange->closed_, {}))
      closed(exchange->answered_ ? exchange->response_.status : 499);
    busy_ = false;
    co_return kept&& keep && !exchange->gone();
  }

  Awaitable<void> refuse(const boost::system::error_code& error, bool head) {
    HttpResponse response;
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      response = plain_error(431, "invalid_request_error",
                             "the header is too large; send fewer or shorter fields");
    } else if (error == http::error::body_limit) {
      response = plain_error(413, "invalid_request_error",
                             "the body is too large; split it, or raise --max-body");
    } else if (error.category() == make_error_code(http::error::bad_method).category() &&
               error != http::error::end_of_stream && error != http::error::partial_message) {
      response = plain_error(400, "invalid_request_error", "this is no HTTP/1.1 request");
    } else {
      co_return;
    }
    expires_after(server_.limits_.write_seconds);
    co_await send(response, false, 11, head);
  }

  Awaitable<void> send(const HttpResponse& response, bool keep, unsigned version, bool head) {
    http::response<http::string_body> message(http::status(response.status), version);
    message.set(http::field::server, "tutti");
    message.set(http::field::content_type, response.type);
    for (const auto& [name, value] : response.headers) message.set(name, value);
    message.keep_alive(keep);
    message.body() = response.body;
    message.prepare_payload();
    if (head) message.body().clear();
    co_await http::async_write(stream_, message, asio::use_awaitable);
  }

  // True: the whole answer is out.
  Awaitable<bool> answer(HttpExchange& exchange, bool keep, unsigned version, bool head) {
    const HttpLimits& limits = server_.limits_;
    while (!exchange.answered_ && !exchange.gone_) {
      // Ignored by whoever did not ask for it; a client that is gone answers it by a reset.
      const bool asks = exchange.half_closed_;
      if (asks) {
        expires_after(limits.write_seconds);
        co_await asio::async_write(stream_, asio::buffer(kContinue), asio::use_awaitable);
      }
      if (exchange.answered_ || exchange.gone_) break;
      co_await sleep(exchange, asks ? limits.ping_seconds : 3600);
    }
    if (exchange.gone_) co_return false;
    expires_after(limits.write_seconds);
    if (!exchange.streaming_) {
      co_await send(exchange.response_, keep && !server_.stopping_, version, head);
      co_return true;
    }
    // HTTP/1.0 knows no chunks: there the stream ends with the connection.
    const bool chunked = version >= 11;
    http::response<http::empty_body> message(http::status::ok, version);
    message.set(http::field::server, "tutti");
    message.set(http::field::content_type, exchange.response_.type);
    for (const auto& [name, value] : exchange.response_.headers) message.set(name, value);
    message.chunked(chunked);
    message.keep_alive(keep && chunked);
    http::response_serializer<http::empty_body> serializer(message);
    co_await http::async_write_header(stream_, serializer, asio::use_awaitable);
    while (!exchange.gone_) {
      if (std::exchange(exchange.half_closed_, false)) exchange.write(std::string(kPing));
      if (exchange.queue_.empty()) {
        if (exchange.ended_) break;
        const bool silent = co_await sleep(exchange, limits.ping_seconds);
        if (silent && exchange.queue_.empty() && !exchange.ended_)
          exchange.write(std::string(kPing));
        continue;
      }
      std::string bytes;
      while (!exchange.queue_.empty()) {
        bytes += exchange.queue_.front();
        exchange.queue_.pop_front();
      }
      expires_after(limits.write_seconds);
      if (chunked) {
        co_await asio::async_write(stream_, http::make_chunk(asio::buffer(bytes)),
                                   asio::use_awaitable);
      } else {
        co_await asio::async_write(stream_, asio::buffer(bytes), asio::use_awaitable);
      }
      exchange.queued_ -= std::min(exchange.queued_, bytes.size());
    }
    if (exchange.gone_) co_return false;
    if (chunked) co_await asio::async_write(stream_, http::make_chunk_last(), asio::use_awaitable);
    expires_never();
    co_return chunked;
  }

  // True: `seconds` went by in silence.
  Awaitable<bool> sleep(HttpExchange& exchange, double seconds) {
    expires_never();
    exchange.wake_.expires_after(milliseconds(seconds));
    const auto [error] = co_await exchange.wake_.async_wait(asio::as_tuple(asio::use_awaitable));
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) {
      throw boost::system::system_error(asio::error::operation_aborted);
    }
    co_return !error;
  }

  // Ends when the client is gone. One that has closed its side of sending may be gone, or wait for
  // its answer: it is sent what every client ignores, and one that is gone answers by a reset.
  // HTTP/1.0 has nothing of that kind: there it is gone, unless its answer is on its way. What a
  // client sends ahead stays for later, and hides a later end.
  Awaitable<void> watch(HttpExchange& exchange, unsigned version) {
    const Sending sending = co_await next_of_client();
    const bool ended = sending == Sending::kEnded;
    if (sending == Sending::kReset || (ended && version < 11 && !exchange.answered_)) {
      exchange.set_gone();
      co_return;
    }
    if (ended) {
      exchange.half_closed_ = true;
      exchange.wake();
    }
    co_await socket().async_wait(tcp::socket::wait_error, asio::use_awaitable);
    exchange.set_gone();
  }

  enum class Sending : uint8_t { kAhead, kEnded, kReset };

  // Waits until the client does something while its answer is made. Under TLS that shows by reading
  // alone: the bytes are kept for its next request, and kAhead is many of them.
  Awaitable<Sending> next_of_client() {
    if constexpr (kTls) {
      while (buffer_.size() < kReadAhead) {
        const auto [error, n] = co_await stream_.async_read_some(
            buffer_.prepare(4096), asio::as_tuple(asio::use_awaitable));
        buffer_.commit(n);
        if (error == asio::error::operation_aborted) throw boost::system::system_error(error);
        if (error == asio::error::eof || error == asio::ssl::error::stream_truncated)
          co_return Sending::kEnded;
        if (error) co_return Sending::kReset;
      }
      co_return Sending::kAhead;
    }
    co_await socket().async_wait(tcp::socket::wait_read, asio::use_awaitable);
    char byte = 0;
    const ssize_t n = ::recv(socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) co_return Sending::kReset;
    co_return n == 0 ? Sending::kEnded : Sending::kAhead;
  }

  // A client that is still sending would lose the answer to a reset: what it sends is taken, for as
  // long as an answer may take, until it closes or is silent for a second.
  Awaitable<void> linger() {
    constexpr double kSilence = 1;  // seconds
    boost::system::error_code closed;
    if constexpr (kTls) {
      // Says goodbye, and fails as soon as more of a body comes.
      expires_after(kSilence);
      co_await stream_.async_shutdown(asio::as_tuple(asio::use_awaitable));
    }
    socket().shutdown(tcp::socket::shutdown_send, closed);
    if (closed) co_return;
    std::array<char, 4096> bytes;
    const auto end = Clock::now() + milliseconds(server_.limits_.write_seconds);
    for (size_t taken = 0; taken < (size_t(64) << 20) && Clock::now() < end;) {
      expires_after(kSilence);
      const auto [error, n] = co_await socket().async_read_some(
          asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
      if (error) co_return;
      taken += n;
    }
  }

  tcp::socket& socket() { return beast::get_lowest_layer(stream_); }

  HttpServer& server_;
  Stream stream_;
  beast::flat_buffer buffer_;
};

HttpServer::HttpServer(asio::io_context& net, const std::string& host, uint16_t port,
                       HttpLimits limits, Handler handler, HeaderCheck check, const TlsFiles& tls)
    : net_(net),
      limits_(limits),
      handler_(std::move(handler)),
      check_(std::move(check)),
      acceptor_(net),
      again_(net) {
  if (!tls.certificate.empty()) {
    tls_ = std::make_unique<Tls>();
    use_files(tls_->context, tls);
  }
  const std::string place = host + ":" + std::to_string(port);
  try {
    const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host);
    const tcp::endpoint endpoint(address, port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen(asio::socket_base::max_listen_connections);
  } catch (const boost::system::system_error& error) {
    throw Error(ErrorKind::kSystem, place + ": cannot be listened at (" + error.code().message() +
                                        "); give another --host or --port");
  }
  accept();
}

HttpServer::~HttpServer() { close(); }

uint16_t HttpServer::port() const { return acceptor_.local_endpoint().port(); }

std::shared_ptr<HttpConnection> HttpServer::connect(tcp::socket socket) {
  using TlsStream = asio::ssl::stream<tcp::socket>;
  if (tls_) return std::make_shared<Connection<TlsStream>>(*this, std::move(socket), tls_->context);
  return std::make_shared<Connection<tcp::socket>>(*this, std::move(socket));
}

void HttpServer::accept() {
  acceptor_.async_accept([this](const boost::system::error_code& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
    if (error) {
      // Out of descriptors, most likely: they come back when clients go.
      again_.expires_after(std::chrono::milliseconds(100));
      return again_.async_wait([this](const boost::system::error_code& e) {
        if (!e && acceptor_.is_open()) accept();
      });
    }
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    take(std::move(socket));
    accept();
  });
}

void HttpServer::refuse_connection(tcp::socket socket) const {
  static constexpr std::string_view kBusy =
      "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: "
      "1\r\ncontent-type: application/json\r\n"
      "content-length: 101\r\n\r\n"
      R"({"error":{"message":"too many connections; try later","type":"overloaded","param":null,"code":503}})"
      "\r\n";
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  if (!tls_) socket.write_some(asio::buffer(kBusy), ignored);
}

void HttpServer::take(tcp::socket socket) {
  if (connections_ >= limits_.connections) return refuse_connection(std::move(socket));
  const auto connection = connect(std::move(socket));
  std::erase_if(open_, [](const auto& c) { return c.expired(); });
  open_.push_back(connection);
  ++connections_;
  asio::co_spawn(
      net_, [connection]() { return connection->run(); },
      [this, connection](std::exception_ptr) { --connections_; });
}

void HttpServer::stop_accepting() {
  stopping_ = true;
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  again_.cancel();
  for (const auto& weak : open_) {
    if (const auto connection = weak.lock()) connection->close_if_idle();
  }
}

void HttpServer::close() {
  stop_accepting();
  for (const auto& weak : open_) {
    if (const auto connection = weak.lock()) connection->close();
  }
}

}  // namespace tutti::serve
