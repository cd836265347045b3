// From a picture to what a vision tower reads: Qwen2.5-VL's preprocessing (Bai et al., 2025),
// exactly. The picture is brought to sides that whole merge cells fill, resized, normalised, and
// cut into patches, cell by cell.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "vision/image.h"

namespace tutti::vision {

// A picture as patches: frames in pairs, rows, columns. A merge cell is merge x merge of them.
struct Grid {
  int t = 0, h = 0, w = 0;
  int patches() const { return t * h * w; }
  int cells(int merge) const { return patches() / (merge * merge); }
  bool operator==(const Grid&) const = default;
};

struct Preprocessing {
  int patch = 14;    // pixels of a side
  int merge = 2;     // patches of a cell's side
  int temporal = 2;  // frames of a patch; a picture is repeated
  int64_t min_pixels = 56 * 56, max_pixels = 28 * 28 * 1280;
  std::array<float, 3> mean{0.48145466f, 0.4578275f, 0.40821073f};
  std::array<float, 3> deviation{0.26862954f, 0.26130258f, 0.27577711f};

  int cell() const { return patch * merge; }  // pixels of a side
  int patch_values() const { return 3 * temporal * patch * patch; }
};

struct Size {
  int width = 0, height = 0;
  bool operator==(const Size&) const = default;
};

// Sides that are multiples of a cell, about the picture's own, within the limits of pixels. Throws
// Error(kUsage) that starts with `place`: a side below a cell, or more than 200 times the other.
Size smart_size(Size size, const Preprocessing& p, const std::string& place);

struct Patches {
  Grid grid;
  std::vector<float>
      values;  // [grid.patches(), patch_values]: of a patch channel, frame, row, column
};

// Of a picture of smart_size. Patches of a cell follow one another; cells in rows.
Patches cut_patches(const Image& image, const Preprocessing& p);
// The whole way. Throws as smart_size.
Patches patches_of(const Image& image, const Preprocessing& p, const std::string& place);

}  // namespace tutti::vision
