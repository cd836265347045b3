// Countdown with three numbers: "3,7,25>46=" is answered by "3*7=21,21+25=46": two operations of +,
// - and * that use each number once. More than one answer may be right.
#pragma once

#include <array>

#include "train/problems.h"

namespace tutti::train {

class Countdown : public ProblemSource {
 public:
  static constexpr int kMostNumber = 20, kMostTarget = 99;

  // Three numbers of 1 to kMostNumber, then two operations whose result is the target; again until
  // it is 1 to kMostTarget. The answer that is trained is the first one in the order of
  // countdown_answer.
  Problem draw(Draws& draws) const override;
  bool trained(const Problem& problem) const override { return !tenth(problem); }
  bool tested(const Problem& problem) const override { return tenth(problem); }
  bool solves(const Problem& problem, const std::string& written) const override;
};

// The first right answer by the pair that is taken first (positions 0-1, 0-2, 1-2, then 1-0, 2-0,
// 2-1), its operation (+ - *) and the second one (+ - *, its result on the left, then on the
// right); empty when there is none. Results on the way are positive.
std::string countdown_answer(const std::array<int, 3>& numbers, int target);

}  // namespace tutti::train
