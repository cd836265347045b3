#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace tutti::text {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) continue;
    Stop stop;
    stop.text = std::move(stops[i]);
    stop.index = int(i);
    stop.border.assign(stop.text.size() + 1, 0);
    for (size_t length = 1, border = 0; length < stop.text.size(); ++length) {
      while (border > 0 && stop.text[length] != stop.text[border]) border = stop.border[border];
      if (stop.text[length] == stop.text[border]) ++border;
      stop.border[length + 1] = border;
    }
    stops_.push_back(std::move(stop));
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped()) return {};
  for (const char c : text) {
    held_ += c;
    size_t longest = 0;
    for (Stop& stop : stops_) {
      while (stop.state > 0 && stop.text[stop.state] != c) stop.state = stop.border[stop.state];
      if (stop.text[stop.state] == c) ++stop.state;
      if (stop.state == stop.text.size() && stop.state > longest) {
        longest = stop.state;
        matched_ = stop.index;
      }
    }
    if (stopped()) {
      held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
  }
  size_t held = 0;  // bytes that may yet turn out to begin a stop string
  for (const Stop& stop : stops_) held = std::max(held, stop.state);
  std::string out = held_.substr(0, held_.size() - held);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::flush() {
  for (Stop& stop : stops_) stop.state = 0;
  return std::exchange(held_, {});
}

}  // namespace tutti::text
