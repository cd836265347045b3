// Byte-pair encoding by merge rank: the lowest rank first, the leftmost on ties (Sennrich et al.,
// ACL 2016; as the `tokenizers` library does it).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::text {

class Bpe {
 public:
  struct Merge {
    int32_t left, right, result;  // token ids
  };

  Bpe() = default;
  // `merges` in rank order; of equal pairs the first counts.
  explicit Bpe(std::span<const Merge> merges);

  // Merges adjacent symbols in place until no pair has a rank. Negative symbols never merge.
  // n log n in the number of symbols, whatever the text.
  void merge(std::vector<int32_t>& symbols) const;

 private:
  struct Entry {
    uint64_t pair;
    uint32_t rank;
    int32_t result;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;

  const Entry* find(int32_t left, int32_t right) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  std::vector<Entry> table_;  // open addressing by pair; rank kNoRank marks a free slot
};

}  // namespace tutti::text
