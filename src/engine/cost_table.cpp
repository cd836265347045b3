#include "engine/cost_table.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace tutti::engine {

int CostTable::row_bucket(int rows) {
  int bucket = 0;
  while (bucket + 1 < kRowBuckets && (1 << (bucket + 1)) <= rows) ++bucket;
  return bucket;
}

int CostTable::key_bucket(double keys) {
  int bucket = 0;
  while (bucket + 1 < kKeyBuckets && double(64 << bucket) < keys) ++bucket;
  return bucket;
}

void CostTable::record(int rows, double keys, double seconds) {
  if (rows < 1) return;
  Cell& cell = cells_[size_t(row_bucket(rows))][size_t(key_bucket(keys))];
  const double sample = seconds / rows;
  // The first samples count fully, later ones by an eighth: a slow outlier fades within some ticks.
  const double share = 1.0 / std::min(cell.weight + 1.0, 8.0);
  cell.seconds_per_row += (sample - cell.seconds_per_row) * share;
  cell.weight += 1.0;
}

double CostTable::per_row(int rows, double keys) const {
  const int r = row_bucket(rows), k = key_bucket(keys);
  const Cell* best = nullptr;
  int best_distance = 1 << 20;
  for (int i = 0; i < kRowBuckets; ++i) {
    for (int j = 0; j < kKeyBuckets; ++j) {
      if (cells_[size_t(i)][size_t(j)].weight == 0) continue;
      // Fewer rows than asked cost more per row, so they are the safer neighbour.
      const int distance = std::abs(i - r) * 4 + std::abs(j - k) * 2 + (i > r ? 1 : 0);
      if (distance < best_distance) {
        best_distance = distance;
        best = &cells_[size_t(i)][size_t(j)];
      }
    }
  }
  return best ? best->seconds_per_row : 0;
}

double CostTable::predict(int rows, double keys) const { return per_row(rows, keys) * rows; }

int CostTable::rows_within(double seconds, const TickLoad& load, double depth, int limit, int fallback) const {
  limit = std::max(limit, 0);
  if (per_row(1, depth) == 0) return std::clamp(fallback, 0, limit);
  int best = 0;
  for (int rows = 1; rows < limit * 2; rows *= 2) {
    const int candidate = std::min(rows, limit);
    const TickLoad whole = load.with(candidate, depth);
    const double per = per_row(whole.rows, whole.mean_keys());
    if (per * whole.rows <= seconds) {
      best = std::max(best, candidate);
    } else {
      // At this size's cost per row, as many as the time holds: still a forward of about this size.
      best = std::max(best, std::min(candidate, int(seconds / per) - load.rows));
    }
  }
  return std::clamp(best, 0, limit);
}

}  // namespace tutti::engine
