#include "vision/patches.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "vision/resize.h"

namespace tutti::vision {
namespace {

constexpr int kMostElongated = 200;

void check_sides(Size size, const Preprocessing& p, const std::string& place) {
  const std::string sides = std::to_string(size.width) + " x " + std::to_string(size.height);
  if (std::min(size.width, size.height) < p.cell()) {
    throw Error(ErrorKind::kUsage, place + ": an image of " + sides +
                                       " pixels is too small; each side needs " +
                                       std::to_string(p.cell()) + " pixels");
  }
  if (std::max(size.width, size.height) >
      kMostElongated * int64_t(std::min(size.width, size.height))) {
    throw Error(ErrorKind::kUsage, place + ": an image of " + sides +
                                       " pixels is too elongated; no side may be more than " +
                                       std::to_string(kMostElongated) + " times the other");
  }
}

}  // namespace

Size smart_size(Size size, const Preprocessing& p, const std::string& place) {
  check_sides(size, p, place);
  const double cell = p.cell(), width = size.width, height = size.height;
  // nearbyint rounds halves to even.
  Size out{int(std::nearbyint(width / cell) * cell), int(std::nearbyint(height / cell) * cell)};
  const int64_t pixels = int64_t(out.width) * out.height;
  if (pixels > p.max_pixels) {
    const double beta = std::sqrt(height * width / double(p.max_pixels));
    const auto fit = [&](double side) {
      return std::max(p.cell(), int(std::floor(side / beta / cell) * cell));
    };
    out = {fit(width), fit(height)};
  } else if (pixels < p.min_pixels) {
    const double beta = std::sqrt(double(p.min_pixels) / (height * width));
    const auto fit = [&](double side) { return int(std::ceil(side * beta / cell) * cell); };
    out = {fit(width), fit(height)};
  }
  return out;
}

Patches cut_patches(const Image& image, const Preprocessing& p) {
  const int side = p.patch, merge = p.merge;
  Patches out;
  out.grid = {1, image.height / side, image.width / side};
  out.values.reserve(size_t(out.grid.patches()) * size_t(p.patch_values()));
  // A channel has 256 values: each is rescaled in double, rounded, then normalised in fp32.
  std::array<std::array<float, 256>, 3> normalised;
  for (size_t c = 0; c < 3; ++c) {
    for (int v = 0; v < 256; ++v) {
      normalised[c][size_t(v)] = (float(v * (1.0 / 255.0)) - p.mean[c]) / p.deviation[c];
    }
  }
  const auto append = [&](int top, int left) {
    for (size_t c = 0; c < 3; ++c) {
      for (int frame = 0; frame < p.temporal; ++frame) {
        for (int y = top; y < top + side; ++y) {
          for (int x = left; x < left + side; ++x) {
            const size_t pixel = size_t(y) * size_t(image.width) + size_t(x);
            out.values.push_back(normalised[c][image.rgb[pixel * 3 + c]]);
          }
        }
      }
    }
  };
  for (int cell_y = 0; cell_y < out.grid.h / merge; ++cell_y) {
    for (int cell_x = 0; cell_x < out.grid.w / merge; ++cell_x) {
      for (int y = 0; y < merge; ++y) {
        for (int x = 0; x < merge; ++x)
          append((cell_y * merge + y) * side, (cell_x * merge + x) * side);
      }
    }
  }
  return out;
}

Patches patches_of(const Image& image, const Preprocessing& p, const std::string& place) {
  const Size size = smart_size({image.width, image.height}, p, place);
  return cut_patches(resize_bicubic(image, size.width, size.height), p);
}

}  // namespace tutti::vision
