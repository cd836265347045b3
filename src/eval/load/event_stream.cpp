#include "eval/load/event_stream.h"

namespace tutti::eval {

bool EventStream::feed(std::string_view bytes) {
  for (const char c : bytes) {
    const bool second_of_pair = after_return_ && c == '\n';
    after_return_ = c == '\r';
    if (second_of_pair) continue;
    if (c == '\n' || c == '\r') {
      line();
    } else {
      line_ += c;
    }
    if (line_.size() + data_.size() > kMostBytes) return false;
  }
  return true;
}

void EventStream::line() {
  if (line_.empty()) {
    // A blank line ends the event.
    if (has_data_) on_event_(data_);
    data_.clear();
    has_data_ = false;
    return;
  }
  const std::string_view whole = line_;
  const size_t colon = whole.find(':');
  const std::string_view field = whole.substr(0, colon);
  std::string_view value;
  if (colon != std::string_view::npos) value = whole.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  // Other fields (event, id, retry) and comments say nothing to a client of this API.
  if (field == "data" && colon != 0) {
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
  line_.clear();
}

}  // namespace tutti::eval
