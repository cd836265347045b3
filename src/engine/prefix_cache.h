// Pages that may serve again: whole pages of 32 causally appended tokens, found by a 128-bit chain
// of everything their keys and values depend on.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>

#include "engine/context.h"
#include "engine/pages.h"

namespace tutti::engine {

using ChainHash = std::array<uint64_t, 2>;

class PrefixCache {
 public:
  // The chain before the first page: weights version, KV type and salt.
  static ChainHash root(uint64_t weights_version, tensor::KvType type, uint64_t salt);
  // The chain after a page of plain causal tokens.
  static ChainHash extend(const ChainHash& before, std::span<const SlotRecipe> page);

  // The page for (before, tokens), with a reference; it becomes the most recently used.
  std::optional<PageRef> find(const ChainHash& before, std::span<const SlotRecipe> page);
  // Offers a full page. Does nothing when the chain is known.
  void publish(const ChainHash& before, std::span<const SlotRecipe> page, const PageRef& ref);
  // Drops the least recently used page that nobody else references; false when there is none.
  bool evict_one();
  void clear();

  int size() const { return int(entries_.size()); }
  // Pages that evict_one could free now.
  int evictable() const;

 private:
  struct Entry {
    PageRef page;
    std::vector<SlotRecipe> tokens;  // compared on a hit, so that a hash collision cannot lie
    ChainHash before;
    std::list<ChainHash>::iterator use;
  };
  std::map<ChainHash, Entry> entries_;
  std::list<ChainHash> uses_;  // least recently used first
};

}  // namespace tutti::engine
