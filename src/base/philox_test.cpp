#include "base/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace tutti {
namespace {

// The known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32(0, {0, 0, 0, 0}),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(~0ull, {~0u, ~0u, ~0u, ~0u}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0
  EXPECT_EQ(philox4x32(0x299f31d0a4093822ull, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryFieldOfTheKeyMatters) {
  const DrawKey base{.seed = 1, .request = 2, .path = 3, .position = 4, .purpose = Purpose::kTest};
  std::set<PhiloxBlock> seen{draw_block(base, 0)};
  const auto fresh = [&](DrawKey key, uint32_t block) {
    return seen.insert(draw_block(key, block)).second;
  };
  DrawKey key = base;
  EXPECT_TRUE(fresh(key, 1));
  key.seed = 2;
  EXPECT_TRUE(fresh(key, 0));
  key.seed = 1ull << 40 | 1;
  EXPECT_TRUE(fresh(key, 0));
  key = base;
  key.request = 3;
  EXPECT_TRUE(fresh(key, 0));
  key = base;
  key.path = 4;
  EXPECT_TRUE(fresh(key, 0));
  key = base;
  key.position = 3;
  EXPECT_TRUE(fresh(key, 0));
  key = base;
  key.purpose = Purpose::kTrace;
  EXPECT_TRUE(fresh(key, 0));
  // fields do not trade places
  key = base;
  std::swap(key.path, key.position);
  EXPECT_TRUE(fresh(key, 0));
}

TEST(Philox, WordsAreTheBlocksInOrder) {
  const DrawKey key{.seed = 77, .position = 9};
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(draw_word(key, i), draw_block(key, i / 4)[i % 4]);
}

TEST(Philox, ForksGetDistinctPaths) {
  std::set<uint32_t> paths{0};
  for (uint32_t i = 0; i < 1000; ++i) {
    const uint32_t child = fork_path(0, i);
    EXPECT_TRUE(paths.insert(child).second);
    EXPECT_TRUE(paths.insert(fork_path(child, 0)).second);
  }
}

TEST(Philox, UniformsStayInsideTheirIntervals) {
  EXPECT_GT(uniform_open(0), 0.0f);
  EXPECT_LT(uniform_open(~0u), 1.0f);
  EXPECT_EQ(uniform53(0, 0), 0.0);
  EXPECT_LT(uniform53(~0u, ~0u), 1.0);
  // mean 1/2 and variance 1/12, each within five standard errors
  const DrawKey key{.seed = 5, .purpose = Purpose::kTest};
  const int n = 100000;
  double sum = 0, squares = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const double u = uniform_open(draw_word(key, i)) - 0.5;
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 12, 5 * std::sqrt((1.0 / 80 - 1.0 / 144) / n));
}

TEST(Philox, BitsAreBalanced) {
  const DrawKey key{.seed = 6, .purpose = Purpose::kTest};
  const int n = 40000;
  int ones[32] = {};
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t word = draw_word(key, i);
    for (int bit = 0; bit < 32; ++bit) ones[bit] += int(word >> bit & 1u);
  }
  for (int count : ones) EXPECT_NEAR(count, n / 2, 5 * std::sqrt(n / 4.0));
}

}  // namespace
}  // namespace tutti
