// Where the patches of a grid stand, and in which order windowed attention reads them (Qwen2.5-VL).
#pragma once

#include <span>
#include <vector>

#include "models/batch.h"
#include "vision/patches.h"

namespace tutti::vision {

// Merge cells in window order: windows in rows, their cells in rows; windows at the right and lower
// edges are smaller.
struct Windows {
  std::vector<int> order;  // [cells]: the cell (in rows) that comes i-th
  std::vector<int> sizes;  // cells of each window, in order
};

// `window`: cells of a window's side.
Windows windows_of(const Grid& grid, int merge, int window);
// inverse[order[i]] = i.
std::vector<int> inverse_order(std::span<const int> order);

struct Place {
  int row = 0, column = 0;
  bool operator==(const Place&) const = default;
};
// Row and column of every patch, in the order of Patches.
std::vector<Place> patch_places(const Grid& grid, int merge);

// Angles of the rotary embedding of one head, [patches, head_dim / 2]: the first half turns with
// the row, the second with the column; f_j = 10000^(-2j / (head_dim / 2)). In fp32. `head_dim` is a
// multiple of 4.
std::vector<float> patch_angles(std::span<const Place> places, int head_dim);

// Where a prompt's rows stand (M-RoPE): text on the same running index on all three axes; the
// image_token run of the i-th grid at start + (t, cell row, cell column), text behind it goes on at
// the largest position + 1.
struct PromptPositions {
  std::vector<models::Position> positions;  // one per token
  int next = 0;                             // of what comes behind
};
// Throws Error(kUsage) when the runs of image tokens are not those of the grids.
PromptPositions prompt_positions(std::span<const int32_t> tokens, int32_t image_token,
                                 std::span<const Grid> grids, int merge);

}  // namespace tutti::vision
