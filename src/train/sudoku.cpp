#include "train/sudoku.h"

#include <algorithm>

#include "base/hash.h"

namespace tutti::train {
namespace {

// Whether `digit` may stand in `cell` beside the cells before it.
bool fits(const Sudoku::Grid& grid, int cell, char digit) {
  const auto box = [](int c) { return c / 8 * 2 + c % 4 / 2; };
  for (int other = 0; other < cell; ++other) {
    const bool sees = other / 4 == cell / 4 || other % 4 == cell % 4 || box(other) == box(cell);
    if (sees && grid[size_t(other)] == digit) return false;
  }
  return true;
}

void fill(Sudoku::Grid& grid, int cell, std::vector<Sudoku::Grid>& out) {
  if (cell == Sudoku::kCells) {
    out.push_back(grid);
    return;
  }
  for (char digit = '1'; digit <= '4'; ++digit) {
    if (!fits(grid, cell, digit)) continue;
    grid[size_t(cell)] = digit;
    fill(grid, cell + 1, out);
  }
}

uint64_t hash_of(const Sudoku::Grid& grid) { return xxh64(std::as_bytes(std::span(grid))); }

}  // namespace

Sudoku::Sudoku() {
  Grid grid{};
  fill(grid, 0, grids_);
  std::vector<Grid> by_hash = grids_;
  std::ranges::sort(by_hash, {}, hash_of);
  for (size_t i = 0; i < kHeldOutGrids; ++i)
    held_out_.emplace_back(by_hash[i].begin(), by_hash[i].end());
  std::ranges::sort(held_out_);
}

Problem Sudoku::draw(Draws& draws) const {
  const Grid& grid = grids_[size_t(draws.below(int(grids_.size())))];
  for (;;) {
    const int givens = kLeastGivens + draws.below(kMostGivens - kLeastGivens + 1);
    std::vector<int> cells(kCells);
    for (int i = 0; i < kCells; ++i) cells[size_t(i)] = i;
    draws.shuffle(cells);
    cells.resize(size_t(givens));
    const auto agrees = [&](const Grid& other) {
      return std::ranges::all_of(cells, [&](int c) { return other[size_t(c)] == grid[size_t(c)]; });
    };
    if (std::ranges::count_if(grids_, agrees) != 1) continue;
    Problem problem{std::string(kCells, '0') + "\n", std::string(grid.begin(), grid.end())};
    for (const int c : cells) problem.prompt[size_t(c)] = grid[size_t(c)];
    return problem;
  }
}

bool Sudoku::tested(const Problem& problem) const {
  return std::ranges::binary_search(held_out_, problem.answer);
}

}  // namespace tutti::train
