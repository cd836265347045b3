// What the tests of products share: random matrices of every type, rows for them, comparison by
// bits.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/draws.h"
#include "base/half.h"
#include "tensor/kernels.h"

namespace tutti::tensor {

inline constexpr Type kQuantised[] = {Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1,
                                      Type::kQ8_0, Type::kQ4_K, Type::kQ5_K, Type::kQ6_K};
inline constexpr Type kDense[] = {Type::kF32, Type::kF16, Type::kBF16};

using Raw = std::vector<std::byte>;

inline void set_half(std::byte* p, float f) {
  const uint16_t h = float_to_half(f);
  std::memcpy(p, &h, 2);
}

// Where a block's halves stand, and where its integer scales.
struct Fields {
  int halves[2];
  int scales, scale_count;
};
inline Fields fields(Type type) {
  switch (type) {
    case Type::kQ4_1:
    case Type::kQ5_1:
      return {{0, 2}, 0, 0};
    case Type::kQ4_K:
    case Type::kQ5_K:
      return {{0, 2}, 4, 12};
    case Type::kQ6_K:
      return {{208, 208}, 192, 16};
    default:
      return {{0, 0}, 0, 0};
  }
}

// Random blocks; with `fill` >= 0 every byte but the halves is that byte.
inline Raw random_blocks(Type type, int out, int in, Draws& draws, int fill = -1) {
  Raw raw(row_bytes(type, in) * size_t(out));
  for (std::byte& b : raw) b = std::byte(fill >= 0 ? fill : int(draws.word() & 255u));
  const Fields f = fields(type);
  for (size_t at = 0; at < raw.size(); at += size_t(info(type).block_bytes)) {
    for (int half : f.halves) {
      // Now and then a subnormal half, a zero or a large one.
      const uint32_t kind = draws.word() % 16;
      const float value = kind == 0 ? 3e-7f : kind == 1 ? 0.0f : kind == 2 ? 100.0f : 0.05f;
      set_half(raw.data() + at + half, value * draws.uniform(-1, 1));
    }
  }
  return raw;
}

// Activations and their quantised rows.
struct Activations {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  QuantisedRows rows;

  Activations(int count, int n, int block) : x(size_t(count) * size_t(n)) {
    q.resize(x.size());
    scales.resize(x.size() / size_t(block));
    sums.resize(x.size() / 16);
    rows = {block, n, q.data(), scales.data(), sums.data()};
  }
};

inline void fill(Activations& a, Draws& draws) {
  for (float& v : a.x) v = draws.uniform(-1, 1) * (draws.word() % 64 == 0 ? 30.0f : 1.0f);
}

inline void expect_same_bits(const std::vector<float>& expected, const std::vector<float>& actual,
                             const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(actual[i]))
        << what << " at " << i << ": " << expected[i] << " and " << actual[i];
  }
}

inline constexpr float kUntouched = 12345.5f;

}  // namespace tutti::tensor
