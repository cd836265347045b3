// Which rows of a forward attention takes together: neighbours that see the same first runs of
// slots (a prompt's rows, forks of one prompt), so that those slots are read once for all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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

}  // namespace tutti::models
