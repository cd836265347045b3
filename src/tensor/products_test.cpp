// Products at every level (and by what stands in for those that this machine has not, see tables.h)
// against an oracle that reads the file's blocks itself, and against each other, by bits.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/draws.h"
#include "base/half.h"
#include "tensor/product_trial.h"
#include "tensor/tables.h"

namespace tutti::tensor {
namespace {

// ---- the oracle: integers of one block straight from the sheet's table

struct Block {
  std::vector<int> q;             // without the offset
  std::vector<int> scales, mins;  // one per 256 / size elements; {1} and {1} for small blocks
  float d = 0, m = 0;             // value = d * scale * q + m * min
};

Block read_block(Type type, const std::byte* bytes) {
  const auto u8 = [&](int i) { return int(bytes[i]); };
  const auto half = [&](int i) { return half_to_float(uint16_t(u8(i) + 256 * u8(i + 1))); };
  Block block;
  block.q.resize(size_t(info(type).block));
  block.scales = block.mins = {1};
  block.d = half(0);
  const auto nibble = [&](int base, int j) {
    return j < 16 ? u8(base + j) % 16 : u8(base + j - 16) / 16;
  };
  const auto bit = [&](int base, int j) { return u8(base + j / 8) >> (j % 8) & 1; };
  if (type == Type::kQ4_1 || type == Type::kQ5_1) block.m = half(2);
  for (int j = 0; j < info(type).block; ++j) {
    int& q = block.q[size_t(j)];
    const int chunk = j / 64, sub = j / 32, l = j % 32;
    switch (type) {
      case Type::kQ4_0:
        q = nibble(2, j) - 8;
        break;
      case Type::kQ4_1:
        q = nibble(4, j);
        break;
      case Type::kQ5_0:
        q = nibble(6, j) + 16 * bit(2, j) - 16;
        break;
      case Type::kQ5_1:
        q = nibble(8, j) + 16 * bit(4, j);
        break;
      case Type::kQ8_0:
        q = int(int8_t(bytes[2 + j]));
        break;
      case Type::kQ4_K:
        q = sub % 2 ? u8(16 + 32 * chunk + l) / 16 : u8(16 + 32 * chunk + l) % 16;
        break;
      case Type::kQ5_K:
        q = (sub % 2 ? u8(48 + 32 * chunk + l) / 16 : u8(48 + 32 * chunk + l) % 16) +
            16 * (u8(16 + l) >> sub & 1);
        break;
      default: {  // Q6_K
        const int base = 64 * (j / 128), high = 128 + 32 * (j / 128) + l;
        switch (sub % 4) {
          case 0:
            q = u8(base + l) % 16 + 16 * (u8(high) & 3);
            break;
          case 1:
            q = u8(base + l + 32) % 16 + 16 * (u8(high) >> 2 & 3);
            break;
          case 2:
            q = u8(base + l) / 16 + 16 * (u8(high) >> 4 & 3);
            break;
          default:
            q = u8(base + l + 32) / 16 + 16 * (u8(high) >> 6);
        }
        q -= 32;
      }
    }
  }
  if (type == Type::kQ6_K) {
    block.d = half(208);
    block.scales.clear();
    for (int i = 0; i < 16; ++i) block.scales.push_back(int(int8_t(bytes[192 + i])));
  }
  if (type == Type::kQ4_K || type == Type::kQ5_K) {
    block.m = -half(2);
    block.scales.clear();
    block.mins.clear();
    const auto b = [&](int i) { return u8(4 + i); };
    for (int j = 0; j < 8; ++j) {
      block.scales.push_back(j < 4 ? b(j) & 63 : (b(j + 4) & 15) + 16 * (b(j - 4) >> 6));
      block.mins.push_back(j < 4 ? b(j + 4) & 63 : (b(j + 4) >> 4) + 16 * (b(j) >> 6));
    }
  }
  return block;
}

bool has_minimum(Type t) {
  return t == Type::kQ4_1 || t == Type::kQ5_1 || t == Type::kQ4_K || t == Type::kQ5_K;
}

float oracle(Type type, const std::byte* row, int in, const int8_t* a, const float* a_scales) {
  float sum = 0;
  const int size = info(type).block;
  for (int b = 0; b < in / size; ++b) {
    const Block block = read_block(type, row + size_t(b) * size_t(info(type).block_bytes));
    const int per_scale = size / int(block.scales.size()), per_min = size / int(block.mins.size());
    int64_t product = 0, minimum = 0;
    for (int j = 0; j < size; ++j) {
      const int64_t x = a[b * size + j];
      product += block.scales[size_t(j / per_scale)] * block.q[size_t(j)] * x;
      minimum += block.mins[size_t(j / per_min)] * x;
    }
    sum = std::fma(block.d * a_scales[b], float(product), sum);
    if (has_minimum(type)) sum = std::fma(block.m, a_scales[b] * float(minimum), sum);
  }
  return sum;
}

// Every level and an oracle for the first rows.
void check_quantised(Type type, const Raw& raw, int out, int in, Activations& a, int count) {
  const Matrix m = Matrix::pack(type, raw, out, in, Arithmetic::kExactQ8);
  const size_t stride = size_t(out) + 3;
  kernels(Isa::kScalar).quantise(a.x.data(), size_t(in), count, a.rows, 0);
  std::vector<float> expected(size_t(count) * stride, kUntouched);
  for (int r = 0; r < count; ++r) {
    for (int o = 0; o < out; ++o) {
      expected[size_t(r) * stride + size_t(o)] =
          oracle(type, raw.data() + size_t(o) * row_bytes(type, in), in,
                 a.q.data() + size_t(r) * size_t(in),
                 a.scales.data() + size_t(r) * size_t(in / a.rows.block));
    }
  }
  for (const Table& table : tables()) {
    std::vector<float> y(expected.size(), kUntouched);
    table.kernels.matmul_quantised(m, a.rows, count, 0, m.tiles(), y.data(), stride);
    expect_same_bits(
        expected, y,
        std::string(info(type).name) + " " + table.name + " rows " + std::to_string(count));
  }
}

TEST(Products, QuantisedMatchTheOracleAtEveryLevel) {
  Draws draws(1);
  for (Type type : kQuantised) {
    for (int count : {1, 2, 3, 4, 5, 8, 17, 33}) {
      for (int out : {1, 16, 37}) {
        const int in = info(type).block == 32 ? 96 : 512;
        Activations a(count, in, info(type).block);
        fill(a, draws);
        check_quantised(type, random_blocks(type, out, in, draws), out, in, a, count);
      }
    }
  }
}

TEST(Products, LongRowsMatchTheOracle) {
  Draws draws(2);
  for (Type type : kQuantised) {
    for (int in : {2304, 5376}) {
      const int count = in == 2304 ? 5 : 26;
      Activations a(count, in, info(type).block);
      fill(a, draws);
      check_quantised(type, random_blocks(type, 33, in, draws), 33, in, a, count);
    }
  }
}

// 255 everywhere is the largest unsigned quant, 128 is -128 in Q8_0 and in Q6_K's scales, 0 the
// other end: sums of products that a saturating 16-bit add would clip.
TEST(Products, ExtremesDoNotSaturate) {
  Draws draws(3);
  for (Type type : kQuantised) {
    for (int fill_byte : {0, 127, 128, 255}) {
      for (int sign : {-1, 1, 0}) {
        const int in = 512, count = sign == 0 ? 3 : 17;
        Activations a(count, in, info(type).block);
        for (size_t i = 0; i < a.x.size(); ++i)
          a.x[i] = sign ? float(sign) * 3.0f : (i % 2 ? 3.0f : -3.0f);
        check_quantised(type, random_blocks(type, 17, in, draws, fill_byte), 17, in, a, count);
      }
    }
  }
}

TEST(Products, ZeroAndSubnormalRows) {
  Draws draws(4);
  for (Type type : kQuantised) {
    const int in = 512, count = 9;
    Activations a(count, in, info(type).block);
    fill(a, draws);
    for (int i = 0; i < in; ++i) {
      a.x[size_t(i)] = 0.0f;
      a.x[size_t(in + i)] =
          1e-41f * float(i % 7);  // so small that 127/amax overflows: counts as zero
      a.x[size_t(2 * in + i)] = 1e-36f * float(i % 5);  // subnormal d_a
      a.x[size_t(3 * in + i)] = i < 300 ? 0.0f : 1e30f * float(i % 3);
    }
    check_quantised(type, random_blocks(type, 20, in, draws), 20, in, a, count);
    for (int i = 0; i < in / a.rows.block; ++i) EXPECT_EQ(a.scales[size_t(i)], 0.0f);
  }
}

TEST(Products, TileRangesAndRowsDoNotChangeBits) {
  Draws draws(5);
  for (Type type : kQuantised) {
    const int in = 768, out = 100, count = 13;
    const Matrix m =
        Matrix::pack(type, random_blocks(type, out, in, draws), out, in, Arithmetic::kExactQ8);
    Activations a(count, in, info(type).block);
    fill(a, draws);
    kernels(Isa::kScalar).quantise(a.x.data(), size_t(in), count, a.rows, 0);
    for (const Table& table : tables()) {
      const Kernels& k = table.kernels;
      std::vector<float> whole(size_t(count) * out), parts(whole.size());
      k.matmul_quantised(m, a.rows, count, 0, m.tiles(), whole.data(), out);
      for (int first = 0; first < m.tiles();) {
        const int last = std::min(m.tiles(), first + 1 + first % 3);
        for (int r = 0; r < count;) {  // rows in groups of 1, 2, 3 ...
          const int some = std::min(count - r, 1 + r % 4);
          QuantisedRows rows = a.rows;
          rows.q += size_t(r) * size_t(in);
          rows.scales += size_t(r) * size_t(in / rows.block);
          rows.sums += size_t(r) * size_t(in / 16);
          k.matmul_quantised(m, rows, some, first, last, parts.data() + size_t(r) * out, out);
          r += some;
        }
        first = last;
      }
      expect_same_bits(whole, parts, std::string(info(type).name) + " " + table.name);
    }
  }
}

TEST(Products, DenseMatchTheOracleAtEveryLevel) {
  Draws draws(6);
  for (Type type : kDense) {
    for (int count : {1, 2, 3, 5, 8, 17, 33}) {
      const int in = 67, out = 50;
      std::vector<float> weights(size_t(out) * in), x(size_t(count) * in);
      Raw raw(row_bytes(type, in) * size_t(out));
      for (size_t i = 0; i < weights.size(); ++i) {
        // Subnormals of the type among them.
        const float value = draws.uniform(-1, 1) * (i % 50 == 0 ? 1e-7f : 1.0f);
        if (type == Type::kF32) {
          weights[i] = i % 50 == 1 ? 1e-40f : value;
          std::memcpy(&raw[4 * i], &weights[i], 4);
        } else {
          const uint16_t h = type == Type::kF16 ? float_to_half(value) : float_to_bfloat16(value);
          weights[i] = type == Type::kF16 ? half_to_float(h) : bfloat16_to_float(h);
          std::memcpy(&raw[2 * i], &h, 2);
        }
      }
      for (float& v : x) v = draws.uniform(-4, 4);
      std::vector<float> expected(size_t(count) * (out + 1), kUntouched);
      for (int r = 0; r < count; ++r) {
        for (int o = 0; o < out; ++o) {
          float sum = 0;
          for (int k = 0; k < in; ++k)
            sum = std::fma(weights[size_t(o * in + k)], x[size_t(r * in + k)], sum);
          expected[size_t(r * (out + 1) + o)] = sum;
        }
      }
      const Matrix m = Matrix::pack(type, raw, out, in, Arithmetic::kExactQ8);
      for (const Table& table : tables()) {
        std::vector<float> y(expected.size(), kUntouched);
        table.kernels.matmul_dense(m, x.data(), size_t(in), count, 0, 1, y.data(), size_t(out + 1));
        table.kernels.matmul_dense(m, x.data(), size_t(in), count, 1, m.tiles(), y.data() + 0,
                                   size_t(out + 1));
        expect_same_bits(expected, y, std::string(info(type).name) + " " + table.name);
      }
    }
  }
}

// Q4_0 with fp32 activations: the chain over its values, read from the file's blocks.
TEST(Products, WidenedNibblesMatchTheOracleAtEveryLevel) {
  Draws draws(16);
  for (int count : {1, 2, 3, 5, 8, 17, 33}) {
    for (const auto& [out, in] : {std::pair{50, 96}, {16, 32}, {150, 64}}) {
      const Raw raw = random_blocks(Type::kQ4_0, out, in, draws);
      std::vector<float> x(size_t(count) * size_t(in));
      for (float& v : x) v = draws.uniform(-4, 4);
      std::vector<float> expected(size_t(count) * size_t(out + 1), kUntouched);
      for (int r = 0; r < count; ++r) {
        for (int o = 0; o < out; ++o) {
          float sum = 0;
          for (int k = 0; k < in; ++k) {
            const Block block =
                read_block(Type::kQ4_0, raw.data() + size_t(o * (in / 32) + k / 32) * 18);
            sum = std::fma(float(block.q[size_t(k % 32)]) * block.d, x[size_t(r * in + k)], sum);
          }
          expected[size_t(r * (out + 1) + o)] = sum;
        }
      }
      const Matrix m = Matrix::pack(Type::kQ4_0, raw, out, in, Arithmetic::kExactF32);
      EXPECT_EQ(m.activation_block(), 0);
      EXPECT_LT(m.bytes(), size_t((out + 15) / 16 * 16 * (in + 32)));  // not widened in memory
      for (const Table& table : tables()) {
        std::vector<float> y(expected.size(), kUntouched);
        table.kernels.matmul_dense(m, x.data(), size_t(in), count, 0, 1, y.data(), size_t(out + 1));
        table.kernels.matmul_dense(m, x.data(), size_t(in), count, 1, m.tiles(), y.data(),
                                   size_t(out + 1));
        expect_same_bits(expected, y, std::string("Q4_0 ") + table.name);
      }
    }
  }
}

TEST(Products, QuantisedActivationsFollowTheRuleAtEveryLevel) {
  Draws draws(7);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (int block : {32, 256}) {
    // Levels take blocks of 32 by fours: here three are left.
    const int n = block == 32 ? 1120 : 1024, count = 6, stride = n + 8;
    std::vector<float> x(size_t(count) * stride);
    for (float& v : x) v = draws.uniform(-3, 3) * std::exp2(float(int(draws.word() % 40)) - 20.0f);
    for (int i = 0; i < n; ++i) {
      // Exact halves: 254 * amax / 254 steps, so that rounding to even shows.
      x[size_t(i)] = i % block == 0 ? 127.0f : float(i % 64) - 31.5f;
      if (i / block == 2) x[size_t(stride + i)] = 0.0f;
      x[size_t(2 * stride + i)] *= 1e-38f;
      x[size_t(3 * stride + i)] *= 1e32f;
    }
    x[size_t(4 * stride + 5)] = kNan;
    x[size_t(4 * stride + block + 7)] = kInfinity;
    x[size_t(4 * stride + 2 * block + 7)] = -kInfinity;
    for (const Table& table : tables()) {
      Activations a(count + 2, n, block);
      table.kernels.quantise(x.data(), size_t(stride), count, a.rows, 2);
      for (int r = 0; r < count; ++r) {
        for (int b = 0; b < n / block; ++b) {
          const float* from = &x[size_t(r * stride + b * block)];
          const int8_t* q = &a.q[size_t((r + 2) * n + b * block)];
          const float scale = a.scales[size_t((r + 2) * (n / block) + b)];
          float amax = 0;
          bool finite = true;
          for (int i = 0; i < block; ++i) {
            finite = finite && std::isfinite(from[i]);
            amax = std::max(amax, std::fabs(from[i]));
          }
          const bool zero = !finite || std::isinf(127.0f / amax);
          if (!finite) {
            EXPECT_TRUE(std::isnan(scale));
          } else {
            EXPECT_EQ(scale, zero ? 0.0f : amax / 127.0f) << table.name;
          }
          for (int i = 0; i < block; ++i) {
            const int expected = zero ? 0 : int(std::nearbyint(double(from[i] * (127.0f / amax))));
            ASSERT_EQ(int(q[i]), expected)
                << table.name << " row " << r << " block " << b << " element " << i;
          }
          for (int s = 0; s < block / 16; ++s) {
            int sum = 0;
            for (int i = 0; i < 16; ++i) sum += q[16 * s + i];
            ASSERT_EQ(a.sums[size_t((r + 2) * (n / 16) + b * (block / 16) + s)], sum);
          }
        }
      }
    }
  }
}

TEST(Products, PoisonedActivationsShowInTheOutput) {
  Draws draws(8);
  for (Type type : kQuantised) {
    const int in = 512;
    Activations a(2, in, info(type).block);
    fill(a, draws);
    a.x[3] = std::numeric_limits<float>::infinity();
    const Matrix m =
        Matrix::pack(type, random_blocks(type, 16, in, draws), 16, in, Arithmetic::kExactQ8);
    for (const Table& table : tables()) {
      float y[32];
      table.kernels.quantise(a.x.data(), size_t(in), 2, a.rows, 0);
      table.kernels.matmul_quantised(m, a.rows, 2, 0, 1, y, 16);
      for (int o = 0; o < 16; ++o) {
        EXPECT_TRUE(std::isnan(y[o])) << table.name;
        EXPECT_TRUE(std::isfinite(y[16 + o])) << table.name;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::tensor
