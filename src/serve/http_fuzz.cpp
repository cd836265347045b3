// Any bytes as what a client sends, through the server's own connection, routes and engine. It
// answers whole HTTP messages without a 500 and ends with the client; and however the bytes are cut
// into segments, the same requests are seen.
#include <boost/beast/http.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "serve/tiny_server.h"

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

// A whole server on this thread, and what it was asked.
class Bench {
 public:
  explicit Bench(bool with_key) : server_(api_options(with_key), small_limits()) {
    server_.on_request = [this](const serve::HttpRequest& request) {
      requests_.push_back(seen(request));
      heads_.push_back(request.method == "HEAD");
    };
    server_.on_refused = [this](const serve::HttpRequest& request) {
      heads_.push_back(request.method == "HEAD");
    };
  }

  // The requests that came of `bytes`, `step` of them at a time.
  std::vector<std::string> requests_of(std::string_view bytes, size_t step) {
    requests_.clear();
    heads_.clear();
    serve::TinyClient client(server_.connect());
    for (size_t at = 0; at < bytes.size(); at += step) {
      server_.send(client, bytes.substr(at, step));
      server_.settle(client);
    }
    client.end();
    server_.settle(client);
    must(client.closed(), "the server stays when its client has ended");
    check_answers(client.received(), bytes.find("HEAD ") != std::string_view::npos);
    return requests_;
  }

 private:
  // What came back is answers of HTTP/1.1, one for each request, and one that refuses the rest.
  // `heads`: the client may have asked for some without a body.
  void check_answers(std::string_view bytes, bool heads) const {
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
      // What refuses a HEAD whose fields are none has no body either, and is the last.
      const bool refused_head =
          heads && answers >= heads_.size() && parser.is_header_done() && bytes.empty();
      if (!error && !parser.is_done() && refused_head) {
        must(parser.get().result_int() >= 400, "an answer is not whole");
        ++answers;
        continue;
      }
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

  serve::TinyServer server_;
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
