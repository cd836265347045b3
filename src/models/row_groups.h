// Which rows of a forward attention takes together: neighbours that see the same first runs of
// slots (a prompt's rows, forks of one prompt), so that those slots are read once for all of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/pool.h"
#include "models/batch.h"

namespace tutti::models {

struct RowGroup {
  int first = 0;     // entry of the epoch's active rows
  int count = 1;     // at most tensor::kMaxSharedRows
  int shared = 0;    // leading runs that all rows have alike; 0 for a row alone
  int64_t keys = 0;  // visible keys of all rows together
};

// Groups that cover the epoch's active rows in order. `spans` are their runs on one kind of layer;
// a group's scores, of `heads` query heads each, take at most kGroupScores floats unless it is a
// row alone.
inline constexpr int64_t kGroupScores = 1 << 17;
std::vector<RowGroup> group_rows(const Batch& batch, const Epoch& epoch,
                                 std::span<const RunSpan> spans, int heads);

// Query heads of groups of rows in order, shared out by visible keys: calls fn(group, first head,
// end head) for what falls to this worker.
template <class Fn>
void share_heads(std::span<const RowGroup> groups, int heads, const Worker& worker, const Fn& fn) {
  constexpr int64_t kRowCost = 16;  // a row's fixed cost, in keys
  int64_t total = 0;
  for (const auto& g : groups) total += (g.keys + kRowCost * g.count) * heads;
  const int64_t from = total * worker.index() / worker.count();
  const int64_t to = total * (worker.index() + 1) / worker.count();
  int64_t at = 0;
  for (const auto& g : groups) {
    const int64_t cost = g.keys + kRowCost * g.count;
    // A head belongs to the worker in whose share it starts.
    const auto heads_before = [&](int64_t border) {
      return int(std::clamp((border - at + cost - 1) / cost, int64_t(0), int64_t(heads)));
    };
    const int first = heads_before(from), last = heads_before(to);
    at += cost * heads;
    if (first < last) fn(g, first, last);
  }
}

}  // namespace tutti::models
