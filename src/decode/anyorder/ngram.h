// A draft from the text alone: how often a token follows its left neighbour where both are decided,
// else how often it occurs at all (the paper's context n-gram).
#pragma once

#include <map>
#include <span>
#include <vector>

#include "engine/sampling.h"

namespace tutti::decode::anyorder {

class NgramDraft {
 public:
  // Counts the decided tokens of a text; blanks are negative.
  explicit NgramDraft(std::span<const int32_t> tokens);
  // What may follow `left` (negative: unknown). Empty when nothing is decided.
  engine::Distribution after(int32_t left) const;

 private:
  using Counts = std::map<int32_t, int>;
  Counts single_;
  std::map<int32_t, Counts> following_;
};

}  // namespace tutti::decode::anyorder
