#include "engine/cost_table.h"

#include <algorithm>
#include <utility>

namespace tutti::engine {

int CostTable::row_bucket(int rows) {
  if (rows <= kSingleRows) return std::max(rows, 1) - 1;
  int bucket = kSingleRows;
  while (bucket + 1 < kRowBuckets && (2 * kSingleRows) << (bucket - kSingleRows) <= rows) ++bucket;
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
  cell.rows += (rows - cell.rows) * share;
  cell.keys += (keys - cell.keys) * share;
  cell.weight += 1.0;
}

double CostTable::per_row(int rows, double keys) const {
  const Cell& exact = cells_[size_t(row_bucket(rows))][size_t(key_bucket(keys))];
  if (exact.weight > 0) return exact.seconds_per_row;
  // Every measured cell bounds the cost from above: a forward with more rows costs less per row,
  // and with fewer rows less in all; k times the keys cost at most k times as much.
  double least = 0;
  for (const auto& line : cells_) {
    for (const Cell& cell : line) {
      if (cell.weight == 0) continue;
      const double bound = cell.seconds_per_row * std::max(1.0, cell.rows / rows) *
                           std::max(1.0, (keys + 1) / (cell.keys + 1));
      if (least == 0 || bound < least) least = bound;
    }
  }
  return least;
}

std::optional<double> CostTable::measured(int rows, double keys) const {
  const int wanted = key_bucket(keys);
  struct Point {
    double rows, seconds;
  };
  // One point per number of rows, up to the first beyond `rows`.
  std::optional<Point> below, above, before;
  for (int b = 0; b < kRowBuckets && !above; ++b) {
    const Cell* cell = nullptr;
    for (int away = 0; away < kKeyBuckets && !cell; ++away) {
      for (const int k : {wanted - away, wanted + away}) {
        if (k >= 0 && k < kKeyBuckets && cells_[size_t(b)][size_t(k)].weight > 0)
          cell = &cells_[size_t(b)][size_t(k)];
      }
    }
    if (!cell) continue;
    const Point point{cell->rows, cell->seconds_per_row * cell->rows};
    if (point.rows > rows) {
      above = point;
    } else {
      before = std::exchange(below, point);
    }
  }
  if (!below) return std::nullopt;
  if (!above) {
    if (rows >= 2 * below->rows) return std::nullopt;
    // A few more rows than were ever measured: on along the line, but never down.
    if (!before || before->rows >= below->rows) return below->seconds * rows / below->rows;
    std::swap(before, below);
    above = before;
  }
  const double slope = (above->seconds - below->seconds) / (above->rows - below->rows);
  return below->seconds + std::max(slope, 0.0) * (rows - below->rows);
}

double CostTable::predict(int rows, double keys) const { return per_row(rows, keys) * rows; }

int CostTable::rows_within(double seconds, const TickLoad& load, double depth, int limit,
                           int fallback) const {
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
