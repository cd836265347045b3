// Counts by position in the statistics of methods, and of methods with drafts how far ahead these
// stand.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "decode/generation.h"

namespace tutti::decode {

inline void add_counts(std::vector<uint64_t>& sum, std::span<const uint64_t> counts) {
  sum.resize(std::max(sum.size(), counts.size()));
  for (size_t i = 0; i < counts.size(); ++i) sum[i] += counts[i];
}

// One forward whose drafts reached `drafted` steps ahead and stood `accepted` of them, from the
// next step on.
inline void count_drafts(MethodStatistics& s, size_t drafted, size_t accepted) {
  if (s.drafted_at.size() < drafted) {
    s.drafted_at.resize(drafted);
    s.accepted_at.resize(drafted);
  }
  for (size_t d = 0; d < drafted; ++d) ++s.drafted_at[d];
  for (size_t d = 0; d < accepted; ++d) ++s.accepted_at[d];
}

// The same counts by chain: [k]: forwards with drafts of which the first k stood and no more, up to
// the longest one drafted; empty without drafts.
inline std::vector<uint64_t> chain_lengths(std::span<const uint64_t> drafted_at,
                                           std::span<const uint64_t> accepted_at) {
  std::vector<uint64_t> chains;
  if (drafted_at.empty()) return chains;
  uint64_t reached = drafted_at[0];
  for (const uint64_t further : accepted_at) {
    chains.push_back(reached - further);
    reached = further;
  }
  chains.push_back(reached);
  return chains;
}

}  // namespace tutti::decode
