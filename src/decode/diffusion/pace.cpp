#include "decode/diffusion/pace.h"

#include <algorithm>

namespace tutti::decode::diffusion {

bool Pace::enter(const Canvas& canvas) {
  if (canvas.begin() == begin_) return false;
  if (begin_ < 0) all_open_ = canvas.open_count();
  begin_ = canvas.begin();
  index_ = 0;
  open_ = int(canvas.open_in(begin_, canvas.end()).size());
  return true;
}

Step Pace::step(const Canvas& canvas) const {
  Step step;
  step.index = index_;
  step.least = steps_ > 0 ? std::max(1, quota(open_, steps_, index_)) : 1;
  step.open_share = all_open_ > 0 ? float(canvas.open_count()) / float(all_open_) : 0.0f;
  return step;
}

}  // namespace tutti::decode::diffusion
