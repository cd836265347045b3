// What a forward costs on this machine, measured while it runs: seconds by number of rows and mean
// visible keys. The scheduler sizes prompt chunks with it; lossless methods may size drafts with
// it.
#pragma once

#include <array>
#include <optional>

namespace tutti::engine {

// Rows of one forward and what they see.
struct TickLoad {
  int rows = 0;
  double keys = 0;  // visible keys, summed over the rows

  // `count` more rows of one sequence, the first of which sees `depth` keys.
  TickLoad with(int count, double depth) const {
    return {rows + count, keys + double(count) * (depth + double(count) / 2)};
  }
  double mean_keys() const { return rows > 0 ? keys / rows : 0; }
};

class CostTable {
 public:
  // One forward of `rows` rows that saw `keys` keys each on average took `seconds`.
  void record(int rows, double keys, double seconds);
  // Predicted seconds; 0 before anything was measured.
  double predict(int rows, double keys) const;
  // Seconds of a forward of `rows` rows, between measured numbers of rows along a line; what is
  // known of about this many keys is preferred. Empty unless forwards of as few rows, and of about
  // as many or more, were measured.
  std::optional<double> measured(int rows, double keys) const;
  // The most rows (0..limit) of a sequence of `depth` slots that may join `load` so that the whole
  // forward is predicted to take at most `seconds`; `fallback`, at most `limit`, before anything
  // was measured.
  int rows_within(double seconds, const TickLoad& load, double depth, int limit,
                  int fallback) const;

 private:
  // 1, 2, … 64 rows each by itself, because kernels make tiles of a few rows and the next row may
  // cost a third of a forward or nothing: the seventeenth, too, beside sixteen streams; then up to
  // 127, 255, … and 1024 and above.
  static constexpr int kSingleRows = 64, kRowBuckets = kSingleRows + 5;
  static constexpr int kKeyBuckets = 8;  // up to 64, 128, … 4096 and above
  struct Cell {
    double seconds_per_row = 0;
    double rows = 0;  // means of what was recorded here
    double keys = 0;
    double weight = 0;
  };
  static int row_bucket(int rows);
  static int key_bucket(double keys);
  // Seconds per row at (rows, keys): the cell's, or where nothing was measured yet the least that
  // the others allow.
  double per_row(int rows, double keys) const;
  std::array<std::array<Cell, kKeyBuckets>, kRowBuckets> cells_{};
};

}  // namespace tutti::engine
