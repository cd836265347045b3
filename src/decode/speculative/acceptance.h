// How often drafts of each kind stood, as far as a request has seen.
#pragma once

#include <vector>

#include "decode/speculative/tree.h"

namespace tutti::decode::speculative {

class Acceptance {
 public:
  // One expected acceptance per kind, each worth `weight` drafts that were seen.
  explicit Acceptance(std::vector<double> expected, double weight = 3);

  // Of a draft of this kind, given that all before it stand.
  double operator[](int kind) const;
  void record(int kind, bool stood);
  // Records the drafts that were put to the test: the children of every node that stands.
  void learn(const Tree& tree, const Accepted& accepted);

 private:
  struct Kind {
    double stood, seen;
  };
  std::vector<Kind> kinds_;
};

}  // namespace tutti::decode::speculative
