// Paths to JSON: "a.b=3;a.c=x;d=[1,2]\n" is answered by {"a":{"b":3,"c":"x"},"d":[1,2]}: objects
// nested as the paths say, letters as strings, digits as numbers, lists as lists.
#pragma once

#include "train/problems.h"

namespace tutti::train {

class JsonProblems : public ProblemSource {
 public:
  static constexpr int kMostEntries = 4, kMostItems = 3;

  // 1 to kMostEntries entries, each under a key of its own or within one object of two keys.
  Problem draw(Draws& draws) const override;
  bool trained(const Problem& problem) const override { return !tenth(problem); }
  bool tested(const Problem& problem) const override { return tenth(problem); }
};

}  // namespace tutti::train
