// Any bytes as what a client sends, through the server's own connection, routes and engine. It
// answers whole HTTP messages without a 500 and ends with the client; and however the bytes are cut
// into segments, the same requests are seen.
#include <sys/socket.h>
#include <unistd.h>

#include <boost/beast/http.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "decode/tiny_text.h"
#include "serve/api.h"

namespace {

using namespace tutti;
namespace asio = boost::asio;
namespace http = boost::beast::http;

// What holds of all inputs, said where it does not.
void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "http_fuzz: %s\n", what);
  std::abort();
}

serve::HttpLimits small_limits() {
  serve::HttpLimits limits;
  limits.header_bytes = 512;
  limits.body_bytes = 1024;
  limits.stream_bytes = 4096;
  return limits;
}

serve::ApiOptions api_options(bool with_key) {
  serve::ApiOptions options;
  options.version = "0";
  options.allowed_origin = "*";
  options.limits.max_tokens = 3;
  options.limits.choices = 2;
  options.limits.prompts = options.limits.inputs = options.limits.documents = 4;
  if (with_key) options.keys = {"k"};
  return options;
}

std::string seen(const serve::HttpRequest& request) {
  std::string out = request.method + ' ' + request.path + '?' + request.query + '\n';
  for (const auto& [name, value] : request.headers) out += name + ": " + value + '\n';
  return out + '\n' + request.body;
}

// The client's end of a connection.
class Client {
 public:
  explicit Client(int descriptor) : descriptor_(descriptor) {}
  ~Client() { ::close(descriptor_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // What the server has closed takes no more.
  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(size_t(n));
    }
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

// A whole server on this thread: nothing is timed, all is done before anybody looks.
class Bench {
 public:
  explicit Bench(bool with_key)
      : worker_(net_, world_.engine, {}),
        api_(api_options(with_key), {served()}),
        server_(
            net_, "127.0.0.1", 0, small_limits(),
            [this](std::shared_ptr<serve::HttpExchange> exchange) {
              requests_.push_back(seen(exchange->request()));
              heads_.push_back(exchange->request().method == "HEAD");
              api_.handle(std::move(exchange));
            },
            [this](const serve::HttpRequest& request) {
              auto refused = api_.refuse_early(request);
              if (refused) heads_.push_back(request.method == "HEAD");
              return refused;
            }) {}

  // The requests that came of `bytes`, `step` of them at a time.
  std::vector<std::string> requests_of(std::string_view bytes, size_t step) {
    requests_.clear();
    heads_.clear();
    int ends[2];
    must(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "no pair of sockets");
    Client client(ends[0]);
    server_.take(asio::ip::tcp::socket(net_, asio::ip::tcp::v4(), ends[1]));
    for (size_t at = 0; at < bytes.size(); at += step) {
      client.send(bytes.substr(at, step));
      settle(client);
    }
    client.end();
    settle(client);
    must(client.closed(), "the server stays when its client has ended");
    check_answers(client.received());
    return requests_;
  }

 private:
  serve::ServedModel* served() {
    model_.name = "tiny";
    model_.tokenizer = &world_.tokenizer;
    model_.chat = text::ChatTemplate::parse(
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}", {});
    model_.worker = &worker_;
    return &model_;
  }

  size_t poll() {
    net_.restart();
    return net_.poll();
  }

  // Until neither the server nor the engine has anything to do.
  void settle(Client& client) {
    for (bool more = true; more;) {
      more = poll() > 0;
      world_.engine.run();
      more |= poll() > 0;
      more |= client.receive() || worker_.running() + worker_.queued() > 0;
    }
  }

  // What came back is answers of HTTP/1.1, one for each request, and one that refuses the rest.
  void check_answers(std::string_view bytes) const {
    size_t answers = 0;
    while (!bytes.empty()) {
      http::response_parser<http::string_body> parser;
      parser.eager(true);
      parser.body_limit(uint64_t(1) << 24);
      const bool head = answers < heads_.size() && heads_[answers];
      parser.skip(head);
      boost::system::error_code error;
      size_t taken = parser.put(asio::buffer(bytes.data(), bytes.size()), error);
      bytes.remove_prefix(taken);
      if (!error && !parser.is_done()) {  // a stream of HTTP/1.0 ends with its connection
        must(bytes.empty(), "an answer is not whole");
        parser.put_eof(error);
      }
      must(!error && parser.is_done(), "an answer is no HTTP");
      const unsigned status = parser.get().result_int();
      if (status == 100) continue;
      must(status >= 200 && status < 600 && status != 500, "an answer has a status of 500");
      ++answers;
    }
    must(answers >= requests_.size(), "a request has no answer");
    must(answers <= requests_.size() + 1, "an answer has no request");
  }

  asio::io_context net_;
  decode::TinyWorld world_;
  serve::Worker worker_;
  serve::ServedModel model_;
  serve::Api api_;
  serve::HttpServer server_;
  std::vector<std::string> requests_;
  std::vector<bool> heads_;  // of the answers, in order: has no body, as its request was HEAD
};

}  // namespace

// The first byte says how the rest is sent: its lowest bit, whether a key is wanted; the others,
// how many bytes at a time.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Bench open(false), locked(true);
  if (size == 0 || size > 16384) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  Bench& bench = (data[0] & 1) ? locked : open;
  const size_t step = 1 + size_t(data[0] >> 1);
  const auto cut = bench.requests_of(bytes, step);
  const auto whole = bench.requests_of(bytes, bytes.size() + 1);
  must(cut == whole, "the requests depend on how the bytes are cut");
  return 0;
}
