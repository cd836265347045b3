// Whether PEARL drafts: as long as that writes more tokens a second, by the clock, than the target
// alone with all cores. What it chooses may depend on load and clock, because the text does not.
#pragma once

#include "decode/speculative/draft_model.h"

namespace tutti::decode {

class PearlPace {
 public:
  // `adaptive` false: it always drafts.
  PearlPace(speculative::DraftTimes& times, bool adaptive);

  bool drafts() const { return drafts_; }
  // A step that wrote `tokens` tokens in `seconds`, drafting or not.
  void end(bool drafted, int tokens, double seconds);

 private:
  bool pays(double tokens) const;
  double expected_tokens() const;  // of a step with drafts
  void decide();

  speculative::DraftTimes& times_;
  bool adaptive_;
  bool drafts_ = true;
  bool measures_ = false;  // no drafts for a while though they pay: what plain decoding costs now
  int left_ = 0;           // steps until it decides again
  double tokens_ = 0;      // of a step with drafts of this request
  int drafted_ = 0;        // such steps
};

}  // namespace tutti::decode
