#include "eval/traffic/compaction.h"

#include <algorithm>

namespace tutti::eval {

Compaction plan_compaction(std::span<const uint8_t> live, std::span<const uint64_t> weights) {
  const auto weight = [&](size_t i) -> uint64_t {
    return !live[i] ? 0 : weights.empty() ? 1 : weights[i];
  };
  Compaction plan;
  uint64_t total = 0;
  for (size_t i = 0; i < live.size(); ++i) {
    plan.count += live[i] ? 1 : 0;
    total += weight(i);
  }
  const size_t count = size_t(plan.count);
  uint64_t held = 0;  // by the window that ends at i
  uint64_t best = 0;
  for (size_t i = 0; i < live.size(); ++i) {
    held += weight(i);
    if (i >= count) held -= weight(i - count);
    if (i + 1 == count || (i + 1 > count && held > best)) {
      best = held;
      plan.first = int(i + 1 - count);
    }
  }
  if (count == 0) plan.first = 0;
  plan.weight = total - best;

  size_t hole = size_t(plan.first);
  const size_t end = hole + count;
  for (size_t i = 0; i < live.size(); ++i) {
    if (!live[i] || (i >= size_t(plan.first) && i < end)) continue;
    while (live[hole]) ++hole;
    plan.moves.push_back({int(i), int(hole++)});
  }
  return plan;
}

uint64_t rows_of_holes(std::span<const uint8_t> live, std::span<const uint64_t> remaining) {
  const size_t n = live.size();
  // The longest that anything right of i still runs; 0 when nothing is live there.
  std::vector<uint64_t> right(n + 1, 0);
  for (size_t i = n; i > 0; --i)
    right[i - 1] = std::max(right[i], live[i - 1] ? remaining[i - 1] : 0);
  uint64_t rows = 0, left = 0;
  for (size_t i = 0; i < n; ++i) {
    if (live[i]) {
      left = std::max(left, remaining[i]);
    } else {
      rows += std::min(left, right[i]);
    }
  }
  return rows;
}

int SlotWindow::take() {
  int slot = -1;
  if (live_count_ == slots()) return -1;
  if (size_ == 0) {
    first_ = slot = 0;
    size_ = 1;
  } else if (first_ + size_ < slots()) {
    slot = first_ + size_++;
  } else if (first_ > 0) {
    slot = --first_;
    ++size_;
  } else {
    slot = first_;
    while (live(slot)) ++slot;
  }
  live_[size_t(slot)] = 1;
  ++live_count_;
  return slot;
}

void SlotWindow::release(int slot) {
  live_[size_t(slot)] = 0;
  --live_count_;
  while (size_ > 0 && !live(first_ + size_ - 1)) --size_;
  while (size_ > 0 && !live(first_)) {
    ++first_;
    --size_;
  }
}

void SlotWindow::apply(const Compaction& compaction) {
  for (const Move& move : compaction.moves) {
    live_[size_t(move.from)] = 0;
    live_[size_t(move.to)] = 1;
  }
  first_ = compaction.first;
  size_ = compaction.count;
}

}  // namespace tutti::eval
