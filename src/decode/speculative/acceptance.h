// How often drafts of each kind stood.
#pragma once

#include <vector>

#include "decode/speculative/tree.h"

namespace tutti::decode::speculative {

class Acceptance {
 public:
  // One expected acceptance per kind, each worth `weight` drafts that were seen. A text changes its
  // ways: of what was seen, the share `remembered` remains at each new draft of the kind.
  explicit Acceptance(std::vector<double> expected, double weight = 3, double remembered = 0.98);
  // Of one request: begins with what `all` have seen and tells them what it sees. They outlive it.
  explicit Acceptance(Acceptance& all, double weight = 6);

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
  double remembered_ = 0.98;
  Acceptance* all_ = nullptr;
};

}  // namespace tutti::decode::speculative
