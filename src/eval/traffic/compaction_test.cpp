// The shuffle against searches that know nothing of windows.
#include "eval/traffic/compaction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <queue>

#include "base/draws.h"

namespace tutti::eval {
namespace {

std::vector<uint8_t> bits_of(uint32_t mask, int n) {
  std::vector<uint8_t> live;
  for (int i = 0; i < n; ++i) live.push_back(uint8_t(mask >> i & 1));
  return live;
}

bool contiguous(uint32_t mask) {
  if (mask == 0) return true;
  mask >>= std::countr_zero(mask);
  return (mask & (mask + 1)) == 0;
}

// The least moves from each of the 2^n patterns to one without holes: breadth first from all of
// those, moving one live slot to any place that is not live.
std::vector<int> least_moves(int n) {
  std::vector<int> moves(size_t(1) << n, -1);
  std::queue<uint32_t> open;
  for (uint32_t mask = 0; mask < moves.size(); ++mask) {
    if (!contiguous(mask)) continue;
    moves[mask] = 0;
    open.push(mask);
  }
  while (!open.empty()) {
    const uint32_t mask = open.front();
    open.pop();
    for (int from = 0; from < n; ++from) {
      if (!(mask >> from & 1)) continue;
      for (int to = 0; to < n; ++to) {
        if (mask >> to & 1) continue;
        const uint32_t next = (mask & ~(1u << from)) | 1u << to;
        if (moves[next] >= 0) continue;
        moves[next] = moves[mask] + 1;
        open.push(next);
      }
    }
  }
  return moves;
}

// Carries the plan out on slots that hold names, as bytes would be copied; what must hold of any
// plan.
void carry_out(const Compaction& plan, const std::vector<uint8_t>& live) {
  const int n = int(live.size());
  std::vector<int> slots(size_t(n), -1);
  for (int i = 0; i < n; ++i) slots[size_t(i)] = live[size_t(i)] ? 100 + i : -1;
  int last_from = -1, last_to = -1;
  for (const Move& move : plan.moves) {
    ASSERT_GE(slots[size_t(move.from)], 0);
    ASSERT_EQ(slots[size_t(move.to)], -1);  // nothing that lives is overwritten
    ASSERT_GT(move.from, last_from);
    ASSERT_GT(move.to, last_to);
    last_from = move.from;
    last_to = move.to;
    std::swap(slots[size_t(move.from)], slots[size_t(move.to)]);
  }
  std::vector<int> kept;
  for (int i = 0; i < n; ++i) {
    const bool inside = i >= plan.first && i < plan.first + plan.count;
    ASSERT_EQ(slots[size_t(i)] >= 0, inside);
    if (inside) kept.push_back(slots[size_t(i)]);
  }
  std::sort(kept.begin(), kept.end());
  std::vector<int> expected;
  for (int i = 0; i < n; ++i) {
    if (live[size_t(i)]) expected.push_back(100 + i);
  }
  ASSERT_EQ(kept, expected);
}

TEST(Compaction, AllPatternsTakeTheLeastMoves) {
  for (int n = 1; n <= 16; ++n) {
    const std::vector<int> least = least_moves(n);
    for (uint32_t mask = 0; mask < least.size(); ++mask) {
      const std::vector<uint8_t> live = bits_of(mask, n);
      const Compaction plan = plan_compaction(live);
      ASSERT_EQ(int(plan.moves.size()), least[mask]) << n << " slots, pattern " << mask;
      ASSERT_EQ(plan.weight, uint64_t(least[mask]));
      ASSERT_EQ(plan.count, std::popcount(mask));
      carry_out(plan, live);
      if (HasFatalFailure()) return;
    }
  }
}

// The least weight that any sequence of moves shifts, slots told apart: Dijkstra over where each of
// them stands.
uint64_t least_weight(const std::vector<uint8_t>& live, const std::vector<uint64_t>& weights) {
  const int n = int(live.size());
  std::vector<int> start;
  std::vector<uint64_t> weight;
  for (int i = 0; i < n; ++i) {
    if (!live[size_t(i)]) continue;
    start.push_back(i);
    weight.push_back(weights[size_t(i)]);
  }
  using State = std::pair<uint64_t, std::vector<int>>;
  std::priority_queue<State, std::vector<State>, std::greater<>> open;
  std::map<std::vector<int>, uint64_t> done;
  open.push({0, start});
  while (!open.empty()) {
    const auto [cost, at] = open.top();
    open.pop();
    if (!done.emplace(at, cost).second) continue;
    uint32_t mask = 0;
    for (const int place : at) mask |= 1u << place;
    if (contiguous(mask)) return cost;
    for (size_t i = 0; i < at.size(); ++i) {
      for (int to = 0; to < n; ++to) {
        if (mask >> to & 1) continue;
        std::vector<int> next = at;
        next[i] = to;
        if (!done.contains(next)) open.push({cost + weight[i], std::move(next)});
      }
    }
  }
  return 0;
}

TEST(Compaction, WeightsOfAllSmallPatternsAreLeast) {
  Draws draws(1);
  for (int n = 1; n <= 6; ++n) {
    for (uint32_t mask = 0; mask < 1u << n; ++mask) {
      const std::vector<uint8_t> live = bits_of(mask, n);
      std::vector<uint64_t> weights;
      for (int i = 0; i < n; ++i) weights.push_back(uint64_t(draws.below(1000)) << draws.below(30));
      const Compaction plan = plan_compaction(live, weights);
      ASSERT_EQ(plan.weight, least_weight(live, weights)) << n << " slots, pattern " << mask;
      carry_out(plan, live);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Compaction, WeightsOfAllPatternsOf16AreLeast) {
  // Whoever stands outside the final run has moved: the least over all runs is the sum outside the
  // best.
  Draws draws(2);
  constexpr int kSlots = 16;
  for (uint32_t mask = 0; mask < 1u << kSlots; ++mask) {
    const std::vector<uint8_t> live = bits_of(mask, kSlots);
    std::vector<uint64_t> weights;
    for (int i = 0; i < kSlots; ++i) weights.push_back(uint64_t(draws.below(1 << 20)) * 4096);
    const int count = std::popcount(mask);
    uint64_t least = std::numeric_limits<uint64_t>::max();
    for (int first = 0; first + count <= kSlots; ++first) {
      uint64_t outside = 0;
      for (int i = 0; i < kSlots; ++i) {
        if (live[size_t(i)] && (i < first || i >= first + count)) outside += weights[size_t(i)];
      }
      least = std::min(least, outside);
    }
    const Compaction plan = plan_compaction(live, weights);
    uint64_t moved = 0;
    for (const Move& move : plan.moves) moved += weights[size_t(move.from)];
    ASSERT_EQ(plan.weight, least) << mask;
    ASSERT_EQ(moved, least) << mask;
    carry_out(plan, live);
    if (HasFatalFailure()) return;
  }
}

TEST(Compaction, ManySlotsTakeLinearTime) {
  // A quadratic one would need hours.
  std::vector<uint8_t> live(2'000'000);
  Draws draws(3);
  for (auto& x : live) x = uint8_t(draws.below(2));
  const Compaction plan = plan_compaction(live);
  EXPECT_GT(plan.moves.size(), 400'000u);
  EXPECT_GT(rows_of_holes(live, std::vector<uint64_t>(live.size(), 1)), 900'000u);
}

TEST(Compaction, RowsOfHolesAreThoseThatADecodingWindowComputes) {
  Draws draws(4);
  for (int round = 0; round < 2000; ++round) {
    const int n = 1 + draws.below(12);
    std::vector<uint8_t> live;
    std::vector<uint64_t> remaining;
    for (int i = 0; i < n; ++i) {
      live.push_back(uint8_t(draws.below(2)));
      remaining.push_back(uint64_t(1 + draws.below(9)));
    }
    // Iteration after iteration; only holes that are there at the beginning count.
    const std::vector<uint8_t> hole = live;
    uint64_t rows = 0;
    std::vector<uint64_t> left = remaining;
    std::vector<uint8_t> now = live;
    for (;;) {
      const auto first = std::find(now.begin(), now.end(), 1);
      if (first == now.end()) break;
      const auto last = std::find(now.rbegin(), now.rend(), 1).base();
      for (auto at = first; at != last; ++at) rows += hole[size_t(at - now.begin())] == 0;
      for (int i = 0; i < n; ++i) {
        if (now[size_t(i)] && --left[size_t(i)] == 0) now[size_t(i)] = 0;
      }
    }
    ASSERT_EQ(rows_of_holes(live, remaining), rows);
  }
}

TEST(SlotWindow, HoldsAllThatLivesAndNothingLooseAtItsEnds) {
  Draws draws(5);
  for (int round = 0; round < 300; ++round) {
    const int n = 1 + draws.below(10);
    SlotWindow window(n);
    std::vector<bool> live(size_t(n), false);
    for (int step = 0; step < 60; ++step) {
      const int living = int(std::count(live.begin(), live.end(), true));
      if (draws.chance(0.5)) {
        const int first = window.first(), size = window.size();
        const int slot = window.take();
        ASSERT_EQ(slot < 0, living == n);
        if (slot >= 0) {
          ASSERT_FALSE(live[size_t(slot)]);
          // A hole is filled only when both ends are taken.
          if (size > 0 && size < n) {
            ASSERT_TRUE(slot < first || slot >= first + size);
          }
          live[size_t(slot)] = true;
        }
      } else if (living > 0) {
        int slot = draws.below(n);
        while (!live[size_t(slot)]) slot = (slot + 1) % n;
        window.release(slot);
        live[size_t(slot)] = false;
      }
      if (draws.chance(0.2)) {
        const Compaction plan = plan_compaction(window.live());
        window.apply(plan);
        for (const Move& move : plan.moves) {
          live[size_t(move.from)] = false;
          live[size_t(move.to)] = true;
        }
        ASSERT_EQ(window.holes(), 0);
      }
      int count = 0;
      for (int i = 0; i < n; ++i) {
        ASSERT_EQ(window.live(i), live[size_t(i)]);
        count += live[size_t(i)];
        const bool inside = i >= window.first() && i < window.first() + window.size();
        if (live[size_t(i)]) {
          ASSERT_TRUE(inside);
        }
        const bool at_end =
            window.size() > 0 && (i == window.first() || i == window.first() + window.size() - 1);
        if (at_end) {
          ASSERT_TRUE(live[size_t(i)]);
        }
      }
      ASSERT_EQ(window.live_count(), count);
      ASSERT_EQ(window.holes(), window.size() - count);
    }
  }
}

}  // namespace
}  // namespace tutti::eval
