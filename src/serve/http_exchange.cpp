#include <utility>

#include "serve/http_server.h"

namespace tutti::serve {

void HttpExchange::wake() { wake_.cancel(); }

void HttpExchange::set_gone() {
  if (gone_ || ended_) return;
  gone_ = true;
  queue_.clear();
  queued_ = 0;
  if (auto listener = std::exchange(listener_, {})) listener();
}

void HttpExchange::respond(HttpResponse response) {
  if (answered_) return;
  answered_ = ended_ = true;
  response_ = std::move(response);
  response_.headers.insert(response_.headers.end(), headers_.begin(), headers_.end());
  listener_ = {};
  wake();
}

void HttpExchange::begin_stream(Headers headers) {
  if (answered_) return;
  answered_ = streaming_ = true;
  response_.type = "text/event-stream";
  response_.headers = std::move(headers);
  response_.headers.insert(response_.headers.end(), headers_.begin(), headers_.end());
  response_.headers.emplace_back("cache-control", "no-cache");
  response_.headers.emplace_back("x-accel-buffering", "no");
  wake();
}

void HttpExchange::write(std::string bytes) {
  if (gone_ || ended_ || !streaming_) return;
  // A client that does not read must not fill the memory; one large event is no sign of that.
  if (queued_ > stream_bytes_) {
    set_gone();
    return wake();
  }
  queued_ += bytes.size();
  queue_.push_back(std::move(bytes));
  wake();
}

void HttpExchange::end() {
  if (ended_) return;
  ended_ = true;
  listener_ = {};
  wake();
}

}  // namespace tutti::serve
