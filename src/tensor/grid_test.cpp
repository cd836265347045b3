// A grid's values in stored blocks, against Grid::dequantised and the blocks' own dequantiser.
#include "tensor/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"
#include "base/half.h"
#include "tensor/quantise.h"

namespace tutti::tensor {
namespace {

Grid random_grid(int in, int out, int bits, int group, bool zeros, std::mt19937& random) {
  Grid grid;
  grid.in = in;
  grid.out = out;
  grid.bits = bits;
  grid.group = group;
  grid.codes.resize(size_t(in) * size_t(out));
  for (uint8_t& q : grid.codes) q = uint8_t(random() % (1u << bits));
  grid.scales.resize(size_t(grid.group_count()) * size_t(out));
  for (float& s : grid.scales) s = half_to_float(uint16_t(0x1800 + random() % 0x1800));
  if (zeros) {
    grid.zeros.resize(grid.scales.size());
    for (uint16_t& z : grid.zeros) z = uint16_t(random() % ((1u << bits) + (bits == 4)));
  }
  return grid;
}

// What the grid says, one element at a time.
float value(const Grid& grid, int o, int k) {
  const int g = grid.groups.empty() ? k / grid.group : grid.groups[size_t(k)];
  const size_t place = size_t(g * grid.out + o);
  const int zero = grid.zeros.empty() ? (grid.bits == 4 ? 8 : 128) : grid.zeros[place];
  return float(int(grid.codes[size_t(k * grid.out + o)]) - zero) * grid.scales[place];
}

void expect_stored(const Grid& grid, Type type) {
  const StoredGrid to = stored(grid);
  EXPECT_EQ(info(to.type).name, info(type).name);
  std::vector<float> got(size_t(grid.in) * size_t(grid.out));
  ASSERT_EQ(to.rows.size(), row_bytes(to.type, grid.in) * size_t(grid.out));
  dequantise(to.type, to.rows, got);
  for (int o = 0; o < grid.out; ++o) {
    for (int k = 0; k < grid.in; ++k)
      ASSERT_EQ(got[size_t(o * grid.in + k)], value(grid, o, k)) << o << ", " << k;
  }
}

TEST(Grid, BlocksHoldItsValuesBitForBit) {
  std::mt19937 random(1);
  for (const int group : {32, 64, 128, 192}) {
    expect_stored(random_grid(192, 5, 4, group, false, random), Type::kQ4_0);
    expect_stored(random_grid(192, 5, 4, group, true, random), Type::kQ5_0);
    expect_stored(random_grid(192, 5, 8, group, false, random), Type::kQ8_0);
  }
}

TEST(Grid, FloatsStandInWhereBlocksCannot) {
  std::mt19937 random(2);
  expect_stored(random_grid(48, 3, 4, 16, false, random), Type::kF32);   // rows of 48
  expect_stored(random_grid(192, 3, 4, 48, false, random), Type::kF32);  // groups that cut blocks
  expect_stored(random_grid(64, 3, 8, 32, true, random),
                Type::kF32);  // values beyond a signed byte
  Grid scales = random_grid(64, 3, 4, 32, false, random);
  scales.scales[4] = 0.1f;  // no half
  expect_stored(scales, Type::kF32);
  Grid order = random_grid(64, 3, 4, 32, false, random);
  for (int k = 0; k < 64; ++k) order.groups.push_back(int32_t(random() % 2));
  expect_stored(order, Type::kF32);
  order.groups.assign(64, 1);  // an order, but not one that cuts blocks
  expect_stored(order, Type::kQ4_0);
}

TEST(Grid, RoundToNearestIsTheNearestCode) {
  std::mt19937 random(3);
  std::normal_distribution<float> draw(0, 0.3f);
  const int out = 7, in = 100, group = 32;  // the last group has 4
  std::vector<float> w(size_t(out * in));
  for (float& x : w) x = draw(random);
  for (int k = 32; k < 64; ++k) w[size_t(2 * in + k)] = 0;
  const Grid grid = round_to_nearest(w, out, in, 4, group);
  check_grid(grid);
  for (int o = 0; o < out; ++o) {
    for (int g = 0; g < 4; ++g) {
      float most = 0;
      for (int k = 32 * g; k < std::min(in, 32 * g + 32); ++k)
        most = std::max(most, std::fabs(w[size_t(o * in + k)]));
      const float scale = grid.scales[size_t(g * out + o)];
      EXPECT_NEAR(scale, 2 * most / 15, most * 1e-3f);
      EXPECT_EQ(half_to_float(float_to_half(scale)), scale);
      for (int k = 32 * g; k < std::min(in, 32 * g + 32); ++k) {
        const float x = w[size_t(o * in + k)];
        float best = INFINITY;
        for (int q = 0; q < 16; ++q) best = std::min(best, std::fabs(float(q - 8) * scale - x));
        EXPECT_EQ(std::fabs(value(grid, o, k) - x), best) << o << ", " << k;
      }
    }
  }
  EXPECT_EQ(grid.scales[size_t(1 * out + 2)], 0.0f);
  EXPECT_EQ(grid.codes[size_t(40 * out + 2)], 8);
}

TEST(Grid, PartsThatDoNotFitAreRefused) {
  std::mt19937 random(4);
  const auto refused = [&](auto damage) {
    Grid grid = random_grid(64, 4, 4, 32, true, random);
    damage(grid);
    EXPECT_THROW(stored(grid), Error);
  };
  refused([](Grid& g) { g.codes.pop_back(); });
  refused([](Grid& g) { g.codes[3] = 16; });
  refused([](Grid& g) { g.scales.pop_back(); });
  refused([](Grid& g) { g.zeros[1] = 17; });
  refused([](Grid& g) { g.zeros.pop_back(); });
  refused([](Grid& g) { g.bits = 3; });
  refused([](Grid& g) { g.group = 0; });
  refused([](Grid& g) { g.groups.assign(63, 0); });
  refused([](Grid& g) { g.groups.assign(64, 2); });
}

}  // namespace
}  // namespace tutti::tensor
