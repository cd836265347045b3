// Error bounds of the quantisers. That blocks mean what the format says, and that the simple types'
// quantisers give the bytes of the Python package gguf, is tests/conformance/test_quantize.py's.
#include "tensor/quantise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tutti::tensor {
namespace {

const Type kQuantised[] = {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1,
                           Type::kQ8_0, Type::kQ4_K, Type::kQ5_K, Type::kQ6_K};

std::vector<float> there_and_back(Type type, std::span<const float> x,
                                  std::span<const float> importance = {}) {
  std::vector<std::byte> raw(row_bytes(type, int64_t(x.size())));
  quantise(type, x, raw, importance);
  std::vector<float> y(x.size());
  dequantise(type, raw, y);
  return y;
}

double square_error(std::span<const float> x, std::span<const float> y,
                    std::span<const float> weights = {}) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += (weights.empty() ? 1.0 : double(weights[i])) * std::pow(double(x[i]) - double(y[i]), 2);
  }
  return sum;
}

std::vector<float> normal(size_t n, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, scale);
  std::vector<float> x(n);
  for (float& v : x) v = draw(random);
  return x;
}

// The least square error that codes 0..top can have over one sub-block with any scale and minimum:
// a fine grid over both, codes rounded. The minimum of the blocks with one is subtracted and not
// negative.
double least_affine_error(std::span<const float> x, int top) {
  const auto [low, high] = std::ranges::minmax(x);
  double best = std::numeric_limits<double>::infinity();
  for (int s = 0; s < 120; ++s) {
    const double scale = double(high - low) / top * (0.6 + 0.6 * s / 120);
    for (int m = -60; m <= 60; ++m) {
      const double min = std::max(0.0, -double(low) + scale * m / 30);
      double error = 0;
      for (const float v : x) {
        const double q = std::clamp(std::nearbyint((double(v) + min) / scale), 0.0, double(top));
        error += std::pow(scale * q - min - double(v), 2);
      }
      best = std::min(best, error);
    }
  }
  return best;
}

double least_symmetric_error(std::span<const float> x, int bottom) {
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  double best = std::numeric_limits<double>::infinity();
  for (int s = -4000; s <= 4000; ++s) {
    const double scale = double(largest) / bottom * 1.4 * s / 4000;
    if (scale == 0) continue;
    double error = 0;
    for (const float v : x) {
      const double q =
          std::clamp(std::nearbyint(double(v) / scale), -double(bottom), double(bottom - 1));
      error += std::pow(scale * q - double(v), 2);
    }
    best = std::min(best, error);
  }
  return best;
}

// Sub-blocks share the resolution of their scales (6 bits), and the search weighs large elements
// more, so no sub-block reaches its least plain error: a quarter more at most.
TEST(Quantise, KBlocksComeCloseToAnExhaustiveSearch) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const auto x = normal(1024, seed);
    const auto check = [&](Type type, size_t sub, double allowed, const auto& least) {
      double best = 0;
      for (size_t at = 0; at < x.size(); at += sub) best += least(std::span(x).subspan(at, sub));
      const double ours = square_error(x, there_and_back(type, x));
      EXPECT_LE(ours, allowed * best) << info(type).name << " seed " << seed;
      EXPECT_GE(ours, 0.98 * best)
          << info(type).name << ": below what can be; the grid is too coarse";
    };
    check(Type::kQ4_K, 32, 1.10, [](auto s) { return least_affine_error(s, 15); });
    check(Type::kQ5_K, 32, 1.25, [](auto s) { return least_affine_error(s, 31); });
    check(Type::kQ6_K, 16, 1.20, [](auto s) { return least_symmetric_error(s, 32); });
  }
}

// Round to nearest: no element is further away than half a step (the largest of symmetric types by
// one step at the short end), plus what the half-precision scale and minimum lose.
TEST(Quantise, SimpleBlocksRoundToNearest) {
  for (const float scale : {1e-3f, 1.0f, 100.0f}) {
    const auto x = normal(32 * 64, 7, scale);
    for (const Type type : {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1, Type::kQ8_0}) {
      const auto y = there_and_back(type, x);
      const bool affine = type == Type::kQ4_1 || type == Type::kQ5_1;
      const int levels = type == Type::kQ8_0   ? 127
                         : type == Type::kQ4_0 ? 8
                         : type == Type::kQ5_0 ? 16
                         : type == Type::kQ4_1 ? 15
                                               : 31;
      for (size_t block = 0; block < x.size(); block += 32) {
        const auto part = std::span(x).subspan(block, 32);
        const auto [low, high] = std::ranges::minmax(part);
        const float largest = std::max(std::fabs(low), std::fabs(high));
        const float step = (affine ? high - low : largest) / float(levels);
        const float half_precision = largest * 0x1p-10f * (affine ? 2 : 1);
        const bool short_end = type == Type::kQ4_0 || type == Type::kQ5_0;
        for (size_t i = 0; i < 32; ++i) {
          const float allowed = (short_end ? 1.0f : 0.5f) * step * 1.001f + half_precision;
          EXPECT_LE(std::fabs(part[i] - y[block + i]), allowed)
              << info(type).name << " " << part[i];
        }
      }
    }
  }
}

TEST(Quantise, MoreBitsMeanLessError) {
  const auto x = normal(8192, 3);
  const auto relative = [&](Type type) {
    return std::sqrt(square_error(x, there_and_back(type, x)) /
                     square_error(x, std::vector<float>(x.size())));
  };
  // A uniform quantiser of b bits over +-k deviations has an error of k / 2^b / sqrt(3) of the
  // deviation; a block of 32 normal numbers reaches to about 2.1 of them.
  const std::pair<Type, double> bounds[] = {
      {Type::kQ4_0, 0.090},  {Type::kQ4_1, 0.080},  {Type::kQ4_K, 0.074}, {Type::kQ5_0, 0.045},
      {Type::kQ5_1, 0.039},  {Type::kQ5_K, 0.037},  {Type::kQ6_K, 0.018}, {Type::kQ8_0, 0.0056},
      {Type::kBF16, 0.0017}, {Type::kF16, 0.00022}, {Type::kF32, 0.0}};
  double before = 1;
  for (const auto& [type, bound] : bounds) {
    const double error = relative(type);
    EXPECT_LE(error, bound) << info(type).name;
    EXPECT_LT(error, before) << info(type).name;
    before = error;
  }
}

TEST(Quantise, ExtremeBlocks) {
  for (const Type type : kQuantised) {
    const std::string name(info(type).name);
    std::vector<float> x(256, 0.0f);
    EXPECT_EQ(there_and_back(type, x), x) << name;
    x[17] = 1000;  // one outlier: the rest stays 0, itself near
    auto y = there_and_back(type, x);
    EXPECT_NEAR(y[17], 1000, 4) << name;
    for (size_t i = 0; i < 256; ++i) {
      if (i != 17) {
        EXPECT_NEAR(y[i], 0, 1e-3) << name << i;
      }
    }
    std::ranges::fill(x, -3.25f);
    y = there_and_back(type, x);
    for (const float v : y) EXPECT_NEAR(v, -3.25f, 0.03) << name;
    std::ranges::fill(x, 3.25f);
    y = there_and_back(type, x);
    for (const float v : y) EXPECT_NEAR(v, 3.25f, 0.03) << name;
    // Below what half-precision scales can say: nothing is left, and nothing breaks.
    std::ranges::fill(x, 1e-30f);
    x[3] = -2e-30f;
    for (const float v : there_and_back(type, x)) EXPECT_LE(std::fabs(v), 1e-7) << name;
    // Not a number: the other values' codes stay in range, twice the same bytes.
    x = normal(256, 5);
    x[9] = std::numeric_limits<float>::quiet_NaN();
    std::vector<std::byte> a(row_bytes(type, 256)), b(a.size());
    quantise(type, x, a);
    quantise(type, x, b);
    EXPECT_EQ(a, b) << name;
  }
}

TEST(Quantise, ImportanceMovesTheErrorAway) {
  const auto x = normal(4096, 11);
  std::vector<float> weights(x.size());
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = i % 7 == 0 ? 100.0f : 0.1f;
  for (const Type type : {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1, Type::kQ4_K,
                          Type::kQ5_K, Type::kQ6_K}) {
    const double plain = square_error(x, there_and_back(type, x), weights);
    const double guided = square_error(x, there_and_back(type, x, weights), weights);
    EXPECT_LT(guided, 0.9 * plain) << info(type).name;
  }
}

}  // namespace
}  // namespace tutti::tensor
