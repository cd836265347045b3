// cost(rows, keys), measured: what forwards of this engine take on this machine.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace tutti::eval {

class MeasuredCost {
 public:
  struct Grid {
    std::vector<int> rows;                     // ascending, from 1: sequences with a row each
    std::vector<double> keys;                  // ascending: what each of them sees
    std::vector<std::vector<double>> seconds;  // [rows][keys]
    std::vector<std::pair<int, double>>
        prompts;  // rows of one prompt and its seconds, from rows.back() on
  };
  explicit MeasuredCost(Grid grid) : grid_(std::move(grid)) {}

  // Linear between the points of the grid, and on beyond the last two of them. Rows beyond the grid
  // are a prompt's.
  double operator()(int rows, double keys) const;
  const Grid& grid() const { return grid_; }

 private:
  Grid grid_;
};

struct MeasureOptions {
  int rows = 32;          // most sequences side by side
  int prompt_rows = 512;  // most rows of a prompt
  int keys = 256;         // most that a row sees
  int repeats = 5;        // forwards of each point; the median counts
};

// Measures on an idle engine, whole iterations as run_traffic has them (planning and sampling
// included). `progress` gets points done and their number. A small pool bounds keys and prompt
// rows; throws Error(kLimit) when it holds no page for each sequence.
MeasuredCost measure_tick_cost(engine::Engine& engine, const MeasureOptions& options,
                               const std::function<void(int done, int total)>& progress = {});

}  // namespace tutti::eval
