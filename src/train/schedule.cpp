#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tutti::train {

double schedule_factor(const Schedule& s, int64_t step, int64_t steps) {
  if (step < s.warmup) return double(step + 1) / double(s.warmup);
  if (s.kind == Schedule::kConstant) return 1;
  const int64_t start =
      s.kind == Schedule::kStable ? std::max(s.warmup, steps - s.decay) : s.warmup;
  if (step < start) return 1;
  // 0 at the first falling step, 1 at the last step of the run.
  const double done = steps - 1 > start ? double(step - start) / double(steps - 1 - start) : 1.0;
  const double left =
      s.kind == Schedule::kCosine ? 0.5 * (1 + std::cos(std::numbers::pi * done)) : 1 - done;
  return s.final + (1 - s.final) * left;
}

}  // namespace tutti::train
