// Sudoku of 4x4: "1003200000140002" is answered by the one grid of the 288 that has these digits. 0
// is an empty cell.
#pragma once

#include <array>
#include <vector>

#include "train/problems.h"

namespace tutti::train {

class Sudoku : public ProblemSource {
 public:
  static constexpr int kCells = 16, kLeastGivens = 8, kMostGivens = 12, kHeldOutGrids = 29;
  using Grid = std::array<char, kCells>;  // '1'..'4', rows after each other

  Sudoku();
  // A grid, then a number of givens, then which: again until only this grid has them.
  Problem draw(Draws& draws) const override;
  bool trained(const Problem& problem) const override {
    return !tested(problem) && !tenth(problem);
  }
  // The kHeldOutGrids grids with the least hashes.
  bool tested(const Problem& problem) const override;

  // All solutions, in the order of their digits.
  const std::vector<Grid>& grids() const { return grids_; }

 private:
  std::vector<Grid> grids_;
  std::vector<std::string> held_out_;  // ascending
};

}  // namespace tutti::train
