#include "vision/windows.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace tutti::vision {

Windows windows_of(const Grid& grid, int merge, int window) {
  const int rows = grid.h / merge, columns = grid.w / merge;
  Windows out;
  for (int t = 0; t < grid.t; ++t) {
    for (int top = 0; top < rows; top += window) {
      for (int left = 0; left < columns; left += window) {
        const int bottom = std::min(rows, top + window), right = std::min(columns, left + window);
        for (int y = top; y < bottom; ++y) {
          for (int x = left; x < right; ++x) out.order.push_back((t * rows + y) * columns + x);
        }
        out.sizes.push_back((bottom - top) * (right - left));
      }
    }
  }
  return out;
}

std::vector<int> inverse_order(std::span<const int> order) {
  std::vector<int> inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) inverse[size_t(order[i])] = int(i);
  return inverse;
}

std::vector<Place> patch_places(const Grid& grid, int merge) {
  std::vector<Place> places;
  places.reserve(size_t(grid.patches()));
  const int in_cell = merge * merge, columns = grid.w / merge;
  for (int i = 0; i < grid.patches(); ++i) {
    const int in_frame = i % (grid.h * grid.w), cell = in_frame / in_cell,
              inner = in_frame % in_cell;
    places.push_back(
        {cell / columns * merge + inner / merge, cell % columns * merge + inner % merge});
  }
  return places;
}

std::vector<float> patch_angles(std::span<const Place> places, int head_dim) {
  const int half = head_dim / 2;
  std::vector<float> frequencies;
  for (int j = 0; j < half; j += 2) {
    frequencies.push_back(1.0f / float(std::pow(10000.0, double(float(j) / float(half)))));
  }
  std::vector<float> angles;
  angles.reserve(places.size() * size_t(half));
  for (const Place& place : places) {
    for (const float f : frequencies) angles.push_back(float(place.row) * f);
    for (const float f : frequencies) angles.push_back(float(place.column) * f);
  }
  return angles;
}

PromptPositions prompt_positions(std::span<const int32_t> tokens, int32_t image_token,
                                 std::span<const Grid> grids, int merge) {
  PromptPositions out;
  size_t image = 0;
  int next = 0;
  for (size_t i = 0; i < tokens.size();) {
    if (tokens[i] != image_token) {
      out.positions.emplace_back(next++);
      ++i;
      continue;
    }
    if (image == grids.size()) {
      throw Error(ErrorKind::kUsage,
                  "prompt: has more image tokens than its " + std::to_string(grids.size()) +
                      " images need; give an image for each place, or take the token out");
    }
    const Grid& grid = grids[image++];
    const int rows = grid.h / merge, columns = grid.w / merge, count = grid.cells(merge);
    for (int cell = 0; cell < count; ++cell, ++i) {
      if (i == tokens.size() || tokens[i] != image_token) {
        throw Error(ErrorKind::kUsage, "prompt: image " + std::to_string(image) + " needs " +
                                           std::to_string(count) + " image tokens, but has " +
                                           std::to_string(cell));
      }
      out.positions.emplace_back(next + cell / (rows * columns), next + cell / columns % rows,
                                 next + cell % columns);
    }
    next += std::max({grid.t, rows, columns});
  }
  if (image != grids.size()) {
    throw Error(ErrorKind::kUsage, "prompt: has places for " + std::to_string(image) +
                                       " images, but there are " + std::to_string(grids.size()));
  }
  out.next = next;
  return out;
}

}  // namespace tutti::vision
