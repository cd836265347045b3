// Prompt-lookup decoding: what followed the last tokens when they stood in the text before is
// drafted. No second model, no training. Sources: Saxena 2023 (prompt lookup); Yang et al. 2023
// (LLMA); Hu et al. 2024 (SAM Decoding) for the suffix automaton, which finds the longest match.
#pragma once

#include <memory>
#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

namespace speculative {

class Drafter;

struct LookupOptions {
  int least = 1, most = 0;         // tokens that must have matched; most 0: any number
  int longest = 16, shortest = 0;  // of a draft
  int branches = 1;
};
// The drafter of method lookup, for methods that draft with it besides. Refers to `g`.
std::unique_ptr<Drafter> lookup_drafter(const Generation& g, const LookupOptions& options);

}  // namespace speculative

Task<void> lookup(Generation& g);
std::vector<MethodOption> lookup_options();

}  // namespace tutti::decode
