// What a forward costs on this machine, measured while it runs: seconds by number of rows and mean visible keys.
// The scheduler sizes prompt chunks with it; lossless methods may size drafts with it.
#pragma once

#include <array>

namespace tutti::engine {

class CostTable {
 public:
  // One forward of `rows` rows that saw `keys` keys each on average took `seconds`.
  void record(int rows, double keys, double seconds);
  // Predicted seconds; 0 before anything was measured.
  double predict(int rows, double keys) const;
  // The most rows (at least 1, at most `limit`) whose predicted time is within `seconds`; `fallback` before
  // anything was measured.
  int rows_within(double seconds, double keys, int limit, int fallback) const;

 private:
  static constexpr int kRowBuckets = 12;  // 1, 2, 4, … 2048
  static constexpr int kKeyBuckets = 8;   // up to 64, 128, … 4096 and above
  struct Cell {
    double seconds_per_row = 0;
    double weight = 0;
  };
  static int row_bucket(int rows);
  static int key_bucket(double keys);
  // Seconds per row near (rows, keys): the nearest measured cell.
  double per_row(int rows, double keys) const;
  std::array<std::array<Cell, kKeyBuckets>, kRowBuckets> cells_{};
};

}  // namespace tutti::engine
