// Another drafter's drafts beside the candidates of a step, as far as they pay. Nothing looks ahead
// behind them.
#pragma once

#include <memory>

#include "decode/ppd/step.h"
#include "decode/speculative/speculate.h"

namespace tutti::decode::ppd {

class Beside {
 public:
  explicit Beside(std::unique_ptr<speculative::Drafter> drafter);

  // Asks the drafter, and adds to `step` what pays. After pace.begin().
  Task<void> add(engine::Context& context, const speculative::Pace& pace, int depth,
                 StepTree& step);
  // After the forward that verified `tree`, which is what remained of the step. The drafter learns
  // of those of its drafts that were in it: of the others nobody knows whether they were right.
  void learn(const speculative::Tree& tree, const speculative::Accepted& accepted);

 private:
  std::unique_ptr<speculative::Drafter> drafter_;
  speculative::Tree drafted_;
  int left_out_ = 0;  // forwards in a row that left out all that was drafted
};

}  // namespace tutti::decode::ppd
