#include "engine/prefix_cache.h"

#include "base/philox.h"

namespace tutti::engine {
namespace {

void mix(ChainHash& hash, uint64_t value) {
  const PhiloxBlock block = philox4x32(hash[0], {uint32_t(hash[1]), uint32_t(hash[1] >> 32),
                                                 uint32_t(value), uint32_t(value >> 32)});
  hash = {(uint64_t(block[0]) << 32) | block[1], (uint64_t(block[2]) << 32) | block[3]};
}

bool same(std::span<const SlotRecipe> a, std::span<const SlotRecipe> b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].token != b[i].token || a[i].position != b[i].position || a[i].segment != b[i].segment)
      return false;
  }
  return true;
}

}  // namespace

ChainHash PrefixCache::root(uint64_t weights_version, tensor::KvType type, uint64_t salt) {
  ChainHash hash{0x5475747469507243ull, 0x6163686552306f74ull};
  mix(hash, weights_version);
  mix(hash, uint64_t(type));
  mix(hash, salt);
  return hash;
}

ChainHash PrefixCache::extend(const ChainHash& before, std::span<const SlotRecipe> page) {
  ChainHash hash = before;
  for (const auto& slot : page) {
    mix(hash, (uint64_t(uint32_t(slot.token)) << 32) | uint32_t(slot.position.t));
    mix(hash, (uint64_t(uint32_t(slot.position.h)) << 32) | uint32_t(slot.position.w));
    mix(hash, uint64_t(uint32_t(slot.segment)));
  }
  return hash;
}

std::optional<PageRef> PrefixCache::find(const ChainHash& before,
                                         std::span<const SlotRecipe> page) {
  const auto it = entries_.find(extend(before, page));
  if (it == entries_.end() || it->second.before != before || !same(it->second.tokens, page))
    return std::nullopt;
  uses_.splice(uses_.end(), uses_, it->second.use);
  return it->second.page;
}

void PrefixCache::publish(const ChainHash& before, std::span<const SlotRecipe> page,
                          const PageRef& ref) {
  const ChainHash key = extend(before, page);
  if (entries_.contains(key)) return;
  uses_.push_back(key);
  entries_.emplace(key, Entry{ref, {page.begin(), page.end()}, before, std::prev(uses_.end())});
}

bool PrefixCache::evict_one() {
  for (auto use = uses_.begin(); use != uses_.end(); ++use) {
    const auto it = entries_.find(*use);
    if (it->second.page.shared()) continue;
    uses_.erase(use);
    entries_.erase(it);
    return true;
  }
  return false;
}

void PrefixCache::clear() {
  entries_.clear();
  uses_.clear();
}

int PrefixCache::evictable() const {
  int count = 0;
  for (const auto& [key, entry] : entries_) count += !entry.page.shared();
  return count;
}

}  // namespace tutti::engine
