// How many positions a step writes, block by block.
#pragma once

#include "decode/diffusion/canvas.h"
#include "decode/diffusion/policy.h"

namespace tutti::decode::diffusion {

class Pace {
 public:
  // 0: no steps are prescribed, a step writes one position at least.
  explicit Pace(int steps_per_block) : steps_(steps_per_block) {}
  // Call before each step. True when the block is a new one.
  bool enter(const Canvas& canvas);
  Step step(const Canvas& canvas) const;
  void advance() { ++index_; }
  int open_at_start() const { return open_; }

 private:
  int steps_;
  int begin_ = -1, index_ = 0, open_ = 0;
  int all_open_ = 0;  // of the whole answer, when the first block was entered
};

}  // namespace tutti::decode::diffusion
