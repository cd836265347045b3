#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>

namespace tutti::text {
namespace {

// Up to this many symbols a scan per merge beats a heap; almost every word of a text is this short.
constexpr size_t kShort = 32;

uint64_t pair_of(int32_t left, int32_t right) {
  return (uint64_t(uint32_t(left)) << 32) | uint32_t(right);
}

size_t slot_of(uint64_t pair, size_t mask) {
  pair *= 0x9E3779B97F4A7C15ull;
  return size_t(pair ^ (pair >> 32)) & mask;
}

}  // namespace

Bpe::Bpe(std::span<const Merge> merges) {
  table_.assign(std::bit_ceil(merges.size() * 2 + 1), Entry{0, kNoRank, 0});
  const size_t mask = table_.size() - 1;
  uint32_t rank = 0;
  for (const Merge& merge : merges) {
    const uint64_t pair = pair_of(merge.left, merge.right);
    size_t slot = slot_of(pair, mask);
    while (table_[slot].rank != kNoRank && table_[slot].pair != pair) slot = (slot + 1) & mask;
    if (table_[slot].rank == kNoRank) table_[slot] = {pair, rank, merge.result};
    ++rank;
  }
}

const Bpe::Entry* Bpe::find(int32_t left, int32_t right) const {
  if (left < 0 || right < 0 || table_.empty()) return nullptr;
  const size_t mask = table_.size() - 1;
  const uint64_t pair = pair_of(left, right);
  for (size_t slot = slot_of(pair, mask); table_[slot].rank != kNoRank; slot = (slot + 1) & mask) {
    if (table_[slot].pair == pair) return &table_[slot];
  }
  return nullptr;
}

void Bpe::merge(std::vector<int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kShort) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
}

void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  std::array<const Entry*, kShort> pairs;  // pairs[i] joins symbols i and i + 1
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    uint32_t best = kNoRank;
    size_t at = 0;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i] != nullptr && pairs[i]->rank < best) {
        best = pairs[i]->rank;
        at = i;
      }
    }
    if (best == kNoRank) break;
    symbols[at] = pairs[at]->result;
    std::copy(symbols.begin() + ptrdiff_t(at) + 2, symbols.begin() + ptrdiff_t(count),
              symbols.begin() + ptrdiff_t(at) + 1);
    --count;
    if (at + 1 < count) {
      std::copy(pairs.begin() + at + 2, pairs.begin() + count, pairs.begin() + at + 1);
      pairs[at] = find(symbols[at], symbols[at + 1]);
    }
    if (at > 0) pairs[at - 1] = find(symbols[at - 1], symbols[at]);
  }
  symbols.resize(count);
}

void Bpe::merge_long(std::vector<int32_t>& symbols) const {
  const size_t n = symbols.size();
  constexpr size_t kEnd = SIZE_MAX;
  std::vector<size_t> next(n), previous(n);
  std::vector<const Entry*> pairs(n, nullptr);  // of a live symbol with its right neighbour
  struct Candidate {
    uint32_t rank;
    size_t at;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](size_t at) {
    pairs[at] = next[at] == kEnd ? nullptr : find(symbols[at], symbols[next[at]]);
    if (pairs[at] != nullptr) queue.push({pairs[at]->rank, at});
  };
  for (size_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kEnd;
    previous[i] = i > 0 ? i - 1 : kEnd;
  }
  for (size_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    // An entry is stale when its pair has changed since; the current pair has an entry of its own.
    const Entry* pair = pairs[best.at];
    if (pair == nullptr || pair->rank != best.rank) continue;
    const size_t gone = next[best.at];
    symbols[best.at] = pair->result;
    pairs[gone] = nullptr;
    next[best.at] = next[gone];
    if (next[gone] != kEnd) previous[next[gone]] = best.at;
    offer(best.at);
    if (previous[best.at] != kEnd) offer(previous[best.at]);
  }
  size_t count = 0;
  for (size_t at = 0; at != kEnd; at = next[at]) symbols[count++] = symbols[at];
  symbols.resize(count);
}

}  // namespace tutti::text
