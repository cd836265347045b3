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

int CostTable::rows_within(double seconds, double keys, int limit, int fallback) const {
  if (per_row(limit, keys) == 0) return std::clamp(fallback, 1, std::max(1, limit));
  int best = 1;
  for (int rows = 1; rows < limit * 2; rows *= 2) {
    const int candidate = std::min(rows, limit);
    const double per = per_row(candidate, keys);
    if (per * candidate <= seconds) {
      best = std::max(best, candidate);
    } else {
      best = std::max(best, std::min(candidate, int(seconds / per)));
    }
  }
  return std::clamp(best, 1, std::max(1, limit));
}

}  // namespace tutti::engine
