// Stop strings in streamed text, wherever the borders of tokens fall.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::text {

// The match is the stop string that is complete first; of several complete at the same byte the
// longest. So the result does not depend on how the text was cut into calls.
class StopMatcher {
 public:
  StopMatcher() = default;
  // Empty strings are ignored.
  explicit StopMatcher(std::vector<std::string> stops);

  // Text that is certainly before any stop string; what may be the beginning of one is held back.
  // After a match it returns the text before the stop string and from then on nothing.
  std::string push(std::string_view text);
  // The end of the text: what was held back.
  std::string flush();

  bool stopped() const { return matched_ >= 0; }
  // Index of the matched stop string in the list given, or -1.
  int matched() const { return matched_; }

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> border;  // Knuth-Morris-Pratt: longest proper border of each prefix
    size_t state = 0;            // how many bytes of it the text ends with
    int index = 0;
  };
  std::vector<Stop> stops_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace tutti::text
