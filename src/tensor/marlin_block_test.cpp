// The CUDA kernel's text, run on the CPU (cuda/emulated_warp.h), against the product of the grid
// that was packed: its inputs are small integers and its scales powers of two, so that every sum is
// exact and the result can be compared with ==.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <string>

#include "base/half.h"
#include "tensor/cuda/emulated_warp.h"
#include "tensor/marlin.h"

namespace tutti::tensor::cuda {
namespace {

struct Case {
  int m, k, n, group, blocks;
};

constexpr uint16_t kNan = 0x7e00;

template <class Shape>
void expect_exact(const Case& c, bool golden = false) {
  SCOPED_TRACE(std::to_string(c.m) + " x " + std::to_string(c.k) + " x " + std::to_string(c.n) +
               ", groups of " + std::to_string(c.group) + ", " + std::to_string(c.blocks) +
               " blocks");
  std::mt19937 random(unsigned(c.m * 31 + c.k + c.n + c.group + c.blocks));
  Grid grid;
  grid.in = c.k;
  grid.out = c.n;
  grid.group = c.group == -1 ? c.k : c.group;
  for (int i = 0; i < c.k * c.n; ++i)
    grid.codes.push_back(golden ? uint8_t((7 * (i / c.n) + 3 * (i % c.n)) % 16)
                                : uint8_t(random() & 15));
  for (int i = 0; i < grid.group_count() * c.n; ++i)
    grid.scales.push_back(std::ldexp(1.0f, -3 + int(random() % 3)));
  const MarlinLayer layer = pack_marlin(grid);
  ASSERT_EQ(layer.in, c.k);
  ASSERT_EQ(layer.out, c.n);
  std::vector<uint16_t> a, scales, wanted;
  std::vector<float> x;
  for (int i = 0; i < c.m * c.k; ++i) {
    x.push_back(float(int(random() % 5) - 2) * 0.25f);
    a.push_back(float_to_half(x.back()));
  }
  for (const float s : layer.scales) scales.push_back(float_to_half(s));
  const std::vector<float> w = grid.dequantised();
  for (int row = 0; row < c.m; ++row) {
    for (int n = 0; n < c.n; ++n) {
      double sum = 0;
      for (int k = 0; k < c.k; ++k)
        sum += double(x[size_t(row * c.k + k)]) * double(w[size_t(n * c.k + k)]);
      wanted.push_back(float_to_half(float(sum)));
    }
  }

  const int slices = (c.m + Shape::kRows - 1) / Shape::kRows * (c.n / Shape::kTileN);
  std::vector<uint16_t> result;
  std::vector<float> sums(size_t(2 * c.blocks * Shape::kSlot * 4));
  std::vector<int> locks(size_t(slices), 0), order;
  for (int b = 0; b < c.blocks; ++b) order.push_back(b);
  MarlinProblem problem;
  problem.a = a.data();
  problem.words = layer.words.data();
  problem.scales = scales.data();
  problem.sums = sums.data();
  problem.locks = locks.data();
  problem.m = c.m;
  problem.n = c.n;
  problem.k = c.k;
  problem.group = layer.group;
  problem.blocks = c.blocks;
  struct Way {
    Copies copies;
    MarlinSums adder;
  };
  for (const auto [copies, adder] :
       {Way{Copies::kLate, MarlinSums::kLast}, Way{Copies::kEarly, MarlinSums::kShared}}) {
    problem.adder = adder;
    std::shuffle(order.begin(), order.end(), random);
    result.assign(wanted.size(), kNan);
    sums.assign(sums.size(), NAN);
    problem.c = result.data();
    emulate_marlin<Shape>(problem, order, copies);
    EXPECT_EQ(result, wanted) << (copies == Copies::kLate ? "late" : "early") << " copies";
    EXPECT_EQ(locks, std::vector<int>(size_t(slices), 0));
  }
}

using Wide1 = MarlinShape<1, 64, 256>;
using Wide2 = MarlinShape<2, 64, 256>;
using Wide4 = MarlinShape<4, 64, 256>;
using Narrow1 = MarlinShape<1, 128, 128>;
// As on GPUs with more shared memory: stages that a stripe doesn't fill.
using Deep1 = MarlinShape<1, 64, 256, 8>;
using Deep3 = MarlinShape<3, 64, 256, 8>;
using Deep4 = MarlinShape<4, 64, 256, 8>;
using DeepNarrow1 = MarlinShape<1, 128, 128, 8>;

TEST(MarlinBlock, GoldenWords) {
  expect_exact<Narrow1>({16, 128, 256, -1, 1}, true);
  expect_exact<Wide1>({16, 128, 256, -1, 1}, true);
}

TEST(MarlinBlock, RowsThatFillNoBlock) {
  expect_exact<Wide1>({1, 128, 256, -1, 1});
  expect_exact<Wide2>({23, 128, 256, 64, 1});
  expect_exact<Wide4>({50, 128, 256, -1, 1});
  expect_exact<Wide4>({70, 128, 256, 64, 3});  // two problems of 64 rows
}

TEST(MarlinBlock, Groups) {
  for (const int group : {-1, 32, 64, 128, 256}) {
    expect_exact<Narrow1>({16, 512, 256, group, 2});
    expect_exact<Wide1>({9, 512, 256, group, 2});
  }
  expect_exact<Wide1>({3, 768, 256, 384, 5});  // no power of two
}

// Stripes that end one slice and start the next, slices shared by several blocks, more blocks than
// tiles.
TEST(MarlinBlock, Stripes) {
  for (const int blocks : {1, 2, 3, 5, 7, 16}) expect_exact<Narrow1>({5, 384, 512, 128, blocks});
  for (const int blocks : {3, 9}) expect_exact<Wide2>({40, 384, 512, 32, blocks});
  for (const int blocks : {1, 3, 5}) {
    expect_exact<Deep1>({13, 640, 768, 128, blocks});
    expect_exact<Deep3>({61, 640, 512, -1, blocks});
    expect_exact<DeepNarrow1>({16, 640, 384 * 2, 64, blocks});
  }
}

// The paper's example: three column slices of three tiles on five blocks.
TEST(MarlinBlock, PartitionOfThePaper) {
  const MarlinPartition part(3, 3, 5);
  const int wanted[3][3] = {{0, 1, 3}, {0, 2, 3}, {1, 2, 4}};  // [k tile][slice]
  for (int k = 0; k < 3; ++k) {
    for (int slice = 0; slice < 3; ++slice) EXPECT_EQ(part.block_of(k, slice), wanted[k][slice]);
  }
  for (int slice = 0; slice < 3; ++slice) {
    EXPECT_EQ(part.first_block(slice), wanted[0][slice]);
    EXPECT_EQ(part.last_block(slice), wanted[2][slice]);
  }
}

// The eight rows that ldmatrix reads at once lie in different banks of shared memory (16 bytes are
// four of 32).
TEST(MarlinBlock, SharedMemoryHasNoConflicts) {
  for (const int pieces : {Wide1::kARow, Narrow1::kARow}) {
    for (int column = 0; column < pieces; ++column) {
      std::set<int> banks;
      for (int row = 0; row < 8; ++row) banks.insert(marlin_swizzled(row, column, pieces) % 8);
      EXPECT_EQ(banks.size(), 8u);
    }
  }
  EXPECT_LE(Wide4::kShared, 99 * 1024);   // of a block on compute capability 8.6
  EXPECT_LE(Deep4::kShared, 163 * 1024);  // on 8.0
}

}  // namespace
}  // namespace tutti::tensor::cuda
