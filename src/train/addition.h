// Addition with the carries written down: "358+67=" is answered by "8+7+0=15 5+6+1=12 3+0+1=4 425":
// a column from the right with the carry into it, then the sum.
#pragma once

#include "train/problems.h"

namespace tutti::train {

class Addition : public ProblemSource {
 public:
  static constexpr int kMostDigits = 3;

  // Numbers of 1 to kMostDigits digits, the number of digits drawn first.
  Problem draw(Draws& draws) const override;
  bool trained(const Problem& problem) const override { return !tenth(problem); }
  bool tested(const Problem& problem) const override { return tenth(problem); }
};

// The answer to a + b.
std::string addition_scratchpad(int a, int b);

}  // namespace tutti::train
