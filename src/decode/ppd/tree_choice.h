// Which of several dynamic trees a forward goes by: what makes the engine write the most tokens a
// second by its measured costs and by what stood in this text so far. It may depend on load and
// clock, because the text does not.
#pragma once

#include <vector>

#include "decode/speculative/pace.h"
#include "decode/speculative/tree_builder.h"

namespace tutti::decode::ppd {

class TreeChoice {
 public:
  // `rows` > 0: always the trees that write the most tokens of those whose forwards have at most so
  // many rows; plain decoding when there are none.
  TreeChoice(const std::vector<speculative::DynamicTree>& trees, int rows);

  // Null: plain decoding. After pace.begin().
  const speculative::DynamicTree* choose(const speculative::Pace& pace);
  // Of a forward whose candidates were expected to give `expected` tokens, `stood` stood; what was
  // drafted beside them does not count.
  void learn(double expected, int stood);

 private:
  struct Option {
    const speculative::DynamicTree* trees;
    double tokens, rows;  // per forward
  };
  const Option* best(const speculative::Pace& pace) const;

  std::vector<Option> options_;
  const speculative::DynamicTree* fixed_ = nullptr;
  bool adaptive_;
  double expected_, stood_;  // in this text, older forwards counting less
  int idle_ = 0;             // forwards by plain decoding since the last of a tree
  int patience_;             // of them, until trees are tried again
  int trial_ = 0;            // forwards of a trial that are left
};

}  // namespace tutti::decode::ppd
