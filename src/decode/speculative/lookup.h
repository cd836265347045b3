// Prompt-lookup decoding: what followed the last tokens when they stood in the text before is
// drafted. No second model, no training. Sources: Saxena 2023 (prompt lookup); Yang et al. 2023
// (LLMA); Hu et al. 2024 (SAM Decoding) for the suffix automaton, which finds the longest match.
#pragma once

#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

Task<void> lookup(Generation& g);
std::vector<MethodOption> lookup_options();

}  // namespace tutti::decode
