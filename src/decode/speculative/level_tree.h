// A tree of drafts from guesses that do not know each other: for each place ahead, the tokens that
// may stand there. Every path of one guess per place is a possible draft; the likeliest are taken.
// Sources: Cai et al. 2024 (Medusa) and sheet 05 for the greedy choice by products of accuracies.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/speculative/tree.h"

namespace tutti::decode::speculative {

struct Guess {
  int32_t token = -1;
  int kind = 0;           // of Acceptance
  double acceptance = 0;  // expected, where all before it stand
};
// The guesses for one place, the best first.
using Level = std::vector<Guess>;

// The `nodes` drafts of largest reach, or all: level d holds the guesses for d + 1 places after
// `root`. A guess counts for no more than those before it in its level. O(nodes log nodes).
Tree best_tree(int32_t root, const std::vector<Level>& levels, int nodes);

// The drafts that `paths` name: {2, 0} is the first guess of the second level after the third of
// the first. What has no such guess is left out, with what follows it.
Tree named_tree(int32_t root, const std::vector<Level>& levels,
                const std::vector<std::vector<int>>& paths);

}  // namespace tutti::decode::speculative
