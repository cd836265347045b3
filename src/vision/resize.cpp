#include "vision/resize.h"

#include <algorithm>
#include <cmath>

namespace tutti::vision {
namespace {

constexpr int kFractionBits = 22;  // 32, less 8 of a pixel and 2 of sums that overshoot

// How one output pixel is made of input pixels [first, first + weights).
struct Taps {
  int first = 0;
  std::vector<int32_t> weights;  // in units of 2^-22
};

double cubic(double x) {
  constexpr double kA = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0;
}

int32_t fixed(double weight) {
  const double scaled = weight * (1 << kFractionBits);
  return int32_t(weight < 0 ? scaled - 0.5 : scaled + 0.5);  // towards zero: halves go away from it
}

std::vector<Taps> taps_of(int in, int out) {
  const double scale = double(in) / out, stretch = std::max(scale, 1.0), support = 2.0 * stretch;
  const double shrink = 1.0 / stretch;
  std::vector<Taps> all(static_cast<size_t>(out));
  std::vector<double> weights;
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, int(centre - support + 0.5));
    const int last = std::min(in, int(centre + support + 0.5));
    weights.clear();
    double sum = 0;
    for (int x = first; x < last; ++x) {
      weights.push_back(cubic((x - centre + 0.5) * shrink));
      sum += weights.back();
    }
    Taps& taps = all[size_t(i)];
    taps.first = first;
    for (const double w : weights) taps.weights.push_back(fixed(sum != 0 ? w * (1.0 / sum) : w));
  }
  return all;
}

// Weighted sum of pixels `stride` bytes apart.
uint8_t apply(const Taps& taps, const uint8_t* first, size_t stride) {
  int32_t sum = 1 << (kFractionBits - 1);
  for (size_t i = 0; i < taps.weights.size(); ++i) sum += taps.weights[i] * first[i * stride];
  return uint8_t(std::clamp(sum >> kFractionBits, 0, 255));
}

Image resize_rows(const Image& image, int width) {
  Image out{width, image.height, {}};
  out.rgb.resize(size_t(width) * size_t(image.height) * 3);
  const std::vector<Taps> taps = taps_of(image.width, width);
  uint8_t* to = out.rgb.data();
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* row = image.rgb.data() + size_t(y) * size_t(image.width) * 3;
    for (const Taps& t : taps) {
      for (size_t c = 0; c < 3; ++c) *to++ = apply(t, row + size_t(t.first) * 3 + c, 3);
    }
  }
  return out;
}

Image resize_columns(const Image& image, int height) {
  Image out{image.width, height, {}};
  const size_t row = size_t(image.width) * 3;
  out.rgb.resize(row * size_t(height));
  uint8_t* to = out.rgb.data();
  for (const Taps& t : taps_of(image.height, height)) {
    const uint8_t* first = image.rgb.data() + size_t(t.first) * row;
    for (size_t x = 0; x < row; ++x) *to++ = apply(t, first + x, row);
  }
  return out;
}

}  // namespace

Image resize_bicubic(const Image& image, int width, int height) {
  // A pass that would change no size is left out: it would still round.
  Image out = width == image.width ? image : resize_rows(image, width);
  return height == image.height ? out : resize_columns(out, height);
}

}  // namespace tutti::vision
