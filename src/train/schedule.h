// The learning rate over a run. LibTorch's C++ side has StepLR and ReduceLROnPlateau only; these
// are what the papers use.
#pragma once

#include <cstdint>

namespace tutti::train {

struct Schedule {
  enum Kind : uint8_t {
    kConstant,
    kLinear,  // falls to `final` at the last step
    kCosine,  // likewise, along half a cosine
    kStable,  // warm-up, stable, decay (WSD): falls linearly in the last `decay` steps
  } kind = kConstant;
  int64_t warmup = 0;  // steps of linear rise before
  int64_t decay = 0;   // of kStable
  double final = 0;    // share of the learning rate that is left at the end
};

// The factor of the learning rate at step 0 <= step < steps.
double schedule_factor(const Schedule& schedule, int64_t step, int64_t steps);

}  // namespace tutti::train
