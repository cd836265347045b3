// The dynamic tree that writes the most tokens a second when a forward of r rows takes seconds(r):
// the hardware stage of sheet 40, with the numbers of candidates and of prompts of every state
// chosen together.
#pragma once

#include <functional>

#include "decode/speculative/tree_builder.h"

namespace tutti::decode::speculative {

struct TreeLimits {
  int rows = 64;  // of one forward
  int width = 10;
};

// Seconds of a forward of this many rows, rising; any unit.
using RowSeconds = std::function<double(int rows)>;

// Tokens per second of steady_state's chain.
double tokens_per_second(const DynamicTree& trees, const RowSeconds& seconds);

// A semi-Markov decision process: in each state a tree is chosen, which gives tokens, takes time
// and leads to other states. Solved by improving one policy after the other (Howard 1960); in each
// state the best of all numbers of candidates by falling reach and all ways to put prompts behind
// them, none included: without any it is plain decoding.
DynamicTree best_trees(const AcceptanceTable& acceptance, const RowSeconds& seconds,
                       const TreeLimits& limits = {});

}  // namespace tutti::decode::speculative
