// Server-sent events as they arrive, cut anywhere (WHATWG HTML, 9.2.6).
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace tutti::eval {

class EventStream {
 public:
  static constexpr size_t kMostBytes = size_t(16) << 20;  // of one event

  explicit EventStream(std::function<void(std::string_view data)> on_event)
      : on_event_(std::move(on_event)) {}

  // The next bytes. False: an event is longer than kMostBytes, and the stream of no use any more.
  bool feed(std::string_view bytes);

 private:
  void line();

  std::function<void(std::string_view)> on_event_;
  std::string line_, data_;
  bool has_data_ = false;
  bool after_return_ = false;  // a line feed would belong to the line that has ended
};

}  // namespace tutti::eval
