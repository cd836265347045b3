// For tests: a whole server, with a small model and its engine, and a client, all on one thread:
// nothing is timed, all is done before anybody looks.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "decode/tiny_text.h"
#include "serve/api.h"

namespace tutti::serve {

// The client's end of a connection.
class TinyClient {
 public:
  explicit TinyClient(int descriptor) : descriptor_(descriptor) {}
  ~TinyClient() { ::close(descriptor_); }
  TinyClient(const TinyClient&) = delete;
  TinyClient& operator=(const TinyClient&) = delete;

  // As much of `bytes` as the connection takes now. What the server has closed takes no more.
  size_t send(std::string_view bytes) const {
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t n = ::send(descriptor_, bytes.data() + sent, bytes.size() - sent,
                               MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n <= 0) break;
      sent += size_t(n);
    }
    return sent;
  }
  void end() const { ::shutdown(descriptor_, SHUT_WR); }
  // True: something came, if only the end.
  bool receive() {
    char bytes[65536];
    const ssize_t n = closed_ ? -1 : ::recv(descriptor_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n > 0) received_.append(bytes, size_t(n));
    if (n == 0 || (n < 0 && !closed_ && errno == ECONNRESET)) return closed_ = true;
    return n > 0;
  }
  bool closed() const { return closed_; }
  const std::string& received() const { return received_; }

 private:
  int descriptor_;
  bool closed_ = false;
  std::string received_;
};

class TinyServer {
 public:
  explicit TinyServer(ApiOptions options = {}, HttpLimits limits = {})
      : worker_(net_, world_.engine, {}),
        api_(std::move(options), {served()}),
        server_(
            net_, "127.0.0.1", 0, limits,
            [this](std::shared_ptr<HttpExchange> exchange) {
              if (on_request) on_request(exchange->request());
              api_.handle(std::move(exchange));
            },
            [this](const HttpRequest& request) {
              auto refused = api_.refuse_early(request);
              if (refused && on_refused) on_refused(request);
              return refused;
            }) {}

  // A new connection's other end, for a TinyClient.
  int connect() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
      throw std::runtime_error("no pair of sockets");
    server_.take(asio::ip::tcp::socket(net_, asio::ip::tcp::v4(), ends[1]));
    return ends[0];
  }

  // What the net thread has to do now; false: nothing.
  bool poll() {
    net_.restart();
    return net_.poll() > 0;
  }
  // Sends all of `bytes`, and has them read.
  void send(const TinyClient& client, std::string_view bytes) {
    for (size_t stuck = 0; !bytes.empty() && stuck < 2;) {
      const size_t sent = client.send(bytes);
      bytes.remove_prefix(sent);
      stuck = sent == 0 && !poll() ? stuck + 1 : 0;
    }
    while (poll()) {
    }
  }
  // Until no body is being read, which long ones are on another thread; the engine has no turn.
  void read() {
    while (poll() || api_.reading() > 0) {
    }
  }
  // Until neither the server nor the engine has anything to do.
  void settle(TinyClient& client) {
    for (bool more = true; more;) {
      more = poll();
      world_.engine.run();
      more |= poll();
      more |= client.receive() || worker_.running() + worker_.queued() > 0 || api_.reading() > 0;
    }
  }

  ServedModel& model() { return model_; }
  engine::Engine& engine() { return world_.engine; }

  std::function<void(const HttpRequest&)> on_request, on_refused;

 private:
  ServedModel* served() {
    model_.name = "tiny";
    model_.tokenizer = &world_.tokenizer;
    model_.chat = text::ChatTemplate::parse(
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}", {});
    model_.worker = &worker_;
    return &model_;
  }

  asio::io_context net_;
  decode::TinyWorld world_;
  Worker worker_;
  ServedModel model_;
  Api api_;
  HttpServer server_;
};

// A request of JSON as bytes.
inline std::string post(const std::string& path, const std::string& body) {
  return "POST " + path +
         " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace tutti::serve
