// The approximate classes bf16-dot and w8a8-row: by bits against oracles that read the file's
// values themselves, at every level; special values; how far they are from the exact product.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "tensor/product_trial.h"
#include "tensor/quantise.h"
#include "tensor/tables.h"

namespace tutti::tensor {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<Type> all_types() {
  std::vector<Type> types(std::begin(kQuantised), std::end(kQuantised));
  types.insert(types.end(), std::begin(kDense), std::end(kDense));
  return types;
}

// Rows of a type from floats of our choice, and the values that they stand for.
struct Weights {
  Raw raw;
  std::vector<float> values;
  Weights(Type type, const std::vector<float>& x, int out, int in)
      : raw(row_bytes(type, in) * size_t(out)) {
    quantise(type, x, raw);
    values.resize(x.size());
    dequantise(type, raw, values);
  }
};

std::vector<float> random_weights(int n, Draws& draws) {
  std::vector<float> r(static_cast<size_t>(n));
  for (float& v : r) v = draws.uniform(-0.2f, 0.2f);
  return r;
}

// ---- w8a8-row

struct Row8 {
  float scale;
  std::vector<int> q;
};
Row8 row8(const float* x, int n) {
  float amax = 0;
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    finite = finite && std::isfinite(x[i]);
    amax = std::max(amax, std::fabs(x[i]));
  }
  Row8 r{finite ? amax / 127.0f : kNan, std::vector<int>(size_t(n), 0)};
  if (!finite) return r;
  if (std::isinf(127.0f / amax)) r.scale = 0.0f;
  for (int i = 0; i < n && r.scale != 0.0f; ++i)
    r.q[size_t(i)] = int(std::nearbyint(double(x[i] * (127.0f / amax))));
  return r;
}

void check_w8a8(Type type, const Weights& w, int out, int in, Activations& a, int count) {
  const Matrix m = Matrix::pack(type, w.raw, out, in, Arithmetic::kW8A8Row);
  ASSERT_EQ(m.arithmetic(), Arithmetic::kW8A8Row);
  ASSERT_EQ(m.activation_block(), in);
  const size_t stride = size_t(out) + 3;
  std::vector<Row8> rows, outputs;
  for (int r = 0; r < count; ++r) rows.push_back(row8(&a.x[size_t(r) * size_t(in)], in));
  for (int o = 0; o < out; ++o) outputs.push_back(row8(&w.values[size_t(o) * size_t(in)], in));
  std::vector<float> expected(size_t(count) * stride, kUntouched);
  for (int r = 0; r < count; ++r) {
    for (int o = 0; o < out; ++o) {
      int64_t sum = 0;
      for (int k = 0; k < in; ++k)
        sum += int64_t(outputs[size_t(o)].q[size_t(k)]) * rows[size_t(r)].q[size_t(k)];
      ASSERT_LE(std::abs(sum), int64_t(std::numeric_limits<int32_t>::max()));
      expected[size_t(r) * stride + size_t(o)] =
          float(sum) * (outputs[size_t(o)].scale * rows[size_t(r)].scale);
    }
  }
  for (const Table& table : tables()) {
    std::vector<float> y(expected.size(), kUntouched);
    std::ranges::fill(a.q, int8_t(99));
    table.kernels.quantise(a.x.data(), size_t(in), count, a.rows, 0);
    table.kernels.matmul_w8a8(m, a.rows, count, 0, m.tiles() / 2, y.data(), stride);
    table.kernels.matmul_w8a8(m, a.rows, count, m.tiles() / 2, m.tiles(), y.data(), stride);
    expect_same_bits(
        expected, y,
        std::string(info(type).name) + " " + table.name + " rows " + std::to_string(count));
  }
}

TEST(W8A8Row, EveryTypeMatchesTheOracleAtEveryLevel) {
  Draws draws(1);
  for (const Type type : all_types()) {
    for (const int count : {1, 2, 3, 5, 8, 16, 17, 25, 33}) {
      const int in = info(type).block == 256 ? 256 : 192, out = count % 2 ? 53 : 16;
      const Weights w(type, random_weights(out * in, draws), out, in);
      Activations a(count, in, in);
      fill(a, draws);
      check_w8a8(type, w, out, in, a, count);
    }
  }
}

TEST(W8A8Row, ManyRowsAndLongOnes) {
  Draws draws(2);
  for (const auto& [count, out, in] : {std::tuple{150, 40, 64}, {31, 17, 576}, {9, 33, 5376}}) {
    const Weights w(Type::kBF16, random_weights(out * in, draws), out, in);
    Activations a(count, in, in);
    fill(a, draws);
    check_w8a8(Type::kBF16, w, out, in, a, count);
  }
}

// The largest sums there are, of both signs, at the longest row that is allowed and at 2^17; the
// sums of the stored (unsigned) quants go beyond 32 bits there.
TEST(W8A8Row, LongestSumsDoNotOverflow) {
  EXPECT_TRUE(fits_w8a8(133120));
  EXPECT_LE(int64_t(133120) * 127 * 127, int64_t(std::numeric_limits<int32_t>::max()));
  EXPECT_GT(int64_t(133120 + 64) * 127 * 127, int64_t(std::numeric_limits<int32_t>::max()));
  for (const int in : {1 << 17, 133120}) {
    const int out = 3, count = 17;
    std::vector<float> weights(size_t(out) * size_t(in), 0.5f);
    for (int k = 0; k < in; ++k) {
      weights[size_t(in + k)] = -0.5f;
      weights[size_t(2 * in + k)] = k % 2 ? 0.5f : -0.5f;
    }
    const Weights w(Type::kF32, weights, out, in);
    Activations a(count, in, in);
    for (size_t i = 0; i < a.x.size(); ++i)
      a.x[i] = i / size_t(in) % 3 == 0   ? 3.0f
               : i / size_t(in) % 3 == 1 ? -3.0f
                                         : (i % 2 ? 3.0f : -3.0f);
    check_w8a8(Type::kF32, w, out, in, a, count);
  }
}

TEST(W8A8Row, ZeroPoisonedAndTinyRows) {
  Draws draws(3);
  const int in = 128, out = 20, count = 18;
  std::vector<float> weights = random_weights(out * in, draws);
  for (int k = 0; k < in; ++k) {
    weights[size_t(k)] = 0.0f;
    weights[size_t(in + k)] = 1e-41f * float(k % 7);  // 127 / amax overflows: counts as zero
  }
  weights[size_t(2 * in + 5)] = kInfinity;
  weights[size_t(3 * in + 9)] = kNan;
  const Weights w(Type::kF32, weights, out, in);
  Activations a(count, in, in);
  fill(a, draws);
  for (int k = 0; k < in; ++k) {
    a.x[size_t(k)] = 0.0f;
    a.x[size_t(in + k)] = 1e-36f * float(k % 5);
  }
  a.x[size_t(2 * in + 1)] = -kInfinity;
  a.x[size_t(17 * in + 64)] = kNan;
  check_w8a8(Type::kF32, w, out, in, a, count);
}

TEST(W8A8Row, MatricesThatDoNotFitStayExact) {
  EXPECT_FALSE(fits_w8a8(96));
  EXPECT_FALSE(fits_w8a8(133120 + 64));
  Draws draws(4);
  EXPECT_EQ(Matrix::pack(Type::kQ4_0, random_blocks(Type::kQ4_0, 16, 96, draws), 16, 96,
                         Arithmetic::kW8A8Row)
                .activation_block(),
            32);
  const Matrix dense = Matrix::pack(Type::kF32, Raw(96 * 16 * 4), 16, 96, Arithmetic::kW8A8Row);
  EXPECT_EQ(dense.arithmetic(), Arithmetic::kExactF32);
  EXPECT_EQ(dense.activation_block(), 0);
}

// ---- bf16-dot

// Rows of bf16 as the kernels take them.
std::vector<uint16_t> rounded(const Kernels& k, const std::vector<float>& x, int count, int n,
                              size_t stride) {
  std::vector<uint16_t> r(size_t(count) * stride, 0x7fc0);
  for (int i = 0; i < count; ++i)
    k.round_bf16(&x[size_t(i) * size_t(n)], n, &r[size_t(i) * stride]);
  return r;
}

TEST(Bf16Dot, RoundingIsToNearestEvenAtEveryLevel) {
  Draws draws(5);
  std::vector<float> x;
  for (const uint32_t b :
       {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0x17fffu, 0x18000u, 0x18001u, 0x7fffffu, 0x3f808000u,
        0x3f818000u, 0x3f80ffffu, 0x7f7f7fffu, 0x7f7f8000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u,
        0x7fffffffu, 0x7fc00000u}) {
    x.push_back(std::bit_cast<float>(b));
    x.push_back(std::bit_cast<float>(b | 0x80000000u));
  }
  while (x.size() < 1000) x.push_back(std::bit_cast<float>(draws.word()));
  for (const int n : {1, 31, 32, 33, 1000}) {
    for (const Table& table : tables()) {
      const size_t padded = size_t(n + 31) / 32 * 32;
      std::vector<uint16_t> y(padded + 1, 0x1234);
      table.kernels.round_bf16(x.data(), n, y.data());
      for (int i = 0; i < n; ++i)
        ASSERT_EQ(y[size_t(i)], float_to_bfloat16(x[size_t(i)]))
            << table.name << " " << x[size_t(i)];
      for (size_t i = size_t(n); i < padded; ++i) ASSERT_EQ(y[i], 0);
      ASSERT_EQ(y[padded], 0x1234);
    }
  }
}

// Chains by fma in the documented order, for numbers far from subnormals.
TEST(Bf16Dot, EveryTypeMatchesTheOracleAtEveryLevel) {
  Draws draws(6);
  for (const Type type : all_types()) {
    for (const int count : {1, 2, 3, 5, 8, 17, 33, 130}) {
      const int in = info(type).quantised ? 256 : 67, out = count % 2 ? 53 : 16;
      const Weights w(type, random_weights(out * in, draws), out, in);
      std::vector<float> x(size_t(count) * size_t(in));
      for (float& v : x) v = draws.uniform(-4, 4);
      const size_t stride = size_t(out) + 3, x_stride = size_t(in + 31) / 32 * 32;
      const auto at = [](const std::vector<float>& v, int row, int k, int n) {
        return k < n ? bfloat16_to_float(float_to_bfloat16(v[size_t(row) * size_t(n) + size_t(k)]))
                     : 0.0f;
      };
      std::vector<float> expected(size_t(count) * stride, kUntouched);
      for (int r = 0; r < count; ++r) {
        for (int o = 0; o < out; ++o) {
          float sum = 0;
          for (int k = 0; k < in; k += 2) {
            sum = std::fma(at(w.values, o, k + 1, in), at(x, r, k + 1, in), sum);
            sum = std::fma(at(w.values, o, k, in), at(x, r, k, in), sum);
          }
          expected[size_t(r) * stride + size_t(o)] = sum;
        }
      }
      const Matrix m = Matrix::pack(type, w.raw, out, in, Arithmetic::kBf16Dot);
      ASSERT_EQ(m.arithmetic(), Arithmetic::kBf16Dot);
      ASSERT_EQ(m.type(), Type::kBF16);
      ASSERT_EQ(m.activation_block(), 0);
      for (const Table& table : tables()) {
        const auto rows = rounded(table.kernels, x, count, in, x_stride);
        std::vector<float> y(expected.size(), kUntouched);
        table.kernels.matmul_bf16(m, rows.data(), x_stride, count, 0, m.tiles() / 2, y.data(),
                                  stride);
        table.kernels.matmul_bf16(m, rows.data(), x_stride, count, m.tiles() / 2, m.tiles(),
                                  y.data(), stride);
        expect_same_bits(
            expected, y,
            std::string(info(type).name) + " " + table.name + " rows " + std::to_string(count));
      }
    }
  }
}

// One output of every level for the given weights and activations, all exactly bf16.
std::vector<float> one_output(const std::vector<float>& weights, const std::vector<float>& x) {
  const int in = int(x.size());
  const Matrix m =
      Matrix::pack(Type::kF32, std::as_bytes(std::span(weights)), 1, in, Arithmetic::kBf16Dot);
  std::vector<float> r;
  for (const Table& table : tables()) {
    const auto rows = rounded(table.kernels, x, 1, in, 32);
    float y = kUntouched;
    table.kernels.matmul_bf16(m, rows.data(), 32, 1, 0, 1, &y, 1);
    r.push_back(y);
  }
  return r;
}

// What the manual says of subnormals, case by case.
TEST(Bf16Dot, SubnormalsAreZeros) {
  struct Case {
    std::vector<float> weights, x;
    float expected;
  };
  constexpr float kLeast = 0x1p-126f;
  for (const Case& c : {
           Case{{0x1p-130f, 0}, {0x1p120f, 0}, 0.0f},    // a subnormal operand
           Case{{-0x1p-130f, 0}, {kInfinity, 0}, kNan},  // is a zero, also times infinity
           Case{{0x1p-70f, 0}, {0x1p-70f, 0}, 0.0f},     // a subnormal product
           Case{{-0x1p-63f, 0}, {0x1p-64f, 0}, -0.0f},   // keeps its sign
           Case{{0x1p-63f, 0}, {0x1p-63f, 0}, kLeast},   // the least number that stays
           Case{{0x1p-63f, 0x1.8p-63f}, {-0x1p-63f, 0x1p-63f}, 0.0f},  // 1.5 - 1 times the least
           // The upper product is first: 1 + 2^-24 rounds to 1, from which 1 goes.
           Case{{0x1p-12f, 1.0f}, {0x1p-12f, 1.0f}, 1.0f},
           // 2^-126 - 2^-150: 24 bits hold it, and it is below the least normal number.
           Case{{-0x1p-75f, 0x1p-63f}, {0x1p-75f, 0x1p-63f}, 0.0f},
           // 2^-126 - 2^-151, a tie that goes up to the least normal number, and a little less.
           Case{{-0x1p-75f, 0x1p-63f}, {0x1p-76f, 0x1p-63f}, kLeast},
           Case{{-0x1p-75f, 0x1p-63f}, {0x1.02p-76f, 0x1p-63f}, 0.0f},
       }) {
    const std::vector<float> got = one_output(c.weights, c.x);
    for (size_t i = 0; i < got.size(); ++i) {
      const bool same = std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(c.expected);
      EXPECT_TRUE(same || (std::isnan(got[i]) && std::isnan(c.expected)))
          << tables()[i].name << ": " << c.weights[0] << " * " << c.x[0] << " gives " << got[i];
    }
  }
}

// Any bits at all, and sums at the border of the subnormals: the definition (the scalar level)
// against the instruction, where this processor has it, and against what stands in for it
// elsewhere.
TEST(Bf16Dot, RandomBitsAreTheSameAtEveryLevel) {
  Draws draws(7);
  int small = 0, nans = 0;
  for (int round = 0; round < 300; ++round) {
    const int in = 2 + 2 * draws.below(4), out = 64, count = 12, kind = round % 3;
    const auto number = [&] {
      uint32_t b = draws.word() & 0xffff0000u;
      if (kind == 1)
        b = (b & 0x807f0000u) | (60u + draws.word() % 8) << 23;  // products near 2^-126
      if (kind == 2 && draws.below(4) == 0) b = (b & 0x80000000u) | (draws.word() & 0x7f800000u);
      return std::bit_cast<float>(b);
    };
    std::vector<float> weights(size_t(out * in)), x(size_t(count * in));
    std::ranges::generate(weights, number);
    std::ranges::generate(x, number);
    const Matrix m =
        Matrix::pack(Type::kF32, std::as_bytes(std::span(weights)), out, in, Arithmetic::kBf16Dot);
    std::vector<float> expected;
    for (const Table& table : tables()) {
      const auto rows = rounded(table.kernels, x, count, in, 32);
      std::vector<float> y(size_t(count * out));
      table.kernels.matmul_bf16(m, rows.data(), 32, count, 0, m.tiles(), y.data(), size_t(out));
      if (expected.empty()) expected = y;
      expect_same_bits(expected, y, table.name);
    }
    for (const float y : expected) {
      small += std::fabs(y) < 0x1p-125f;
      nans += std::isnan(y);
      EXPECT_FALSE(std::fpclassify(y) == FP_SUBNORMAL);
    }
  }
  EXPECT_GT(small, 10000);
  EXPECT_GT(nans, 100);
}

// ---- both

TEST(Classes, HaveNames) {
  for (const Arithmetic a :
       {Arithmetic::kExactQ8, Arithmetic::kExactF32, Arithmetic::kBf16Dot, Arithmetic::kW8A8Row})
    EXPECT_EQ(find_arithmetic(name(a)), a);
  EXPECT_EQ(find_arithmetic("w8a8"), std::nullopt);
}

// The product by any class.
std::vector<float> product(const Matrix& m, Activations& a, int count) {
  const Kernels& k = kernels();
  std::vector<float> y(size_t(count) * size_t(m.out()));
  const size_t n = size_t(m.in()), stride = size_t(m.out());
  if (m.activation_block() > 0) k.quantise(a.x.data(), n, count, a.rows, 0);
  switch (m.arithmetic()) {
    case Arithmetic::kExactQ8:
      k.matmul_quantised(m, a.rows, count, 0, m.tiles(), y.data(), stride);
      break;
    case Arithmetic::kExactF32:
      k.matmul_dense(m, a.x.data(), n, count, 0, m.tiles(), y.data(), stride);
      break;
    case Arithmetic::kBf16Dot:
      k.matmul_bf16(m, rounded(k, a.x, count, m.in(), n).data(), n, count, 0, m.tiles(), y.data(),
                    stride);
      break;
    case Arithmetic::kW8A8Row:
      k.matmul_w8a8(m, a.rows, count, 0, m.tiles(), y.data(), stride);
  }
  return y;
}

// Root of the mean square of the difference from the product in double of the weights that the file
// holds, relative to the product's. One activation in 64 may be 30 times the others, where
// `spikes`.
double relative_error(Arithmetic arithmetic, Type type, bool spikes) {
  Draws draws(8);
  const int in = 768, out = 128, count = 16;
  const Weights w(type, random_weights(out * in, draws), out, in);
  const Matrix m = Matrix::pack(type, w.raw, out, in, arithmetic);
  Activations a(count, in, std::max(1, m.activation_block()));
  if (spikes) {
    fill(a, draws);
  } else {
    for (float& v : a.x) v = draws.uniform(-1, 1);
  }
  const std::vector<float> y = product(m, a, count);
  double error = 0, size = 0;
  for (int r = 0; r < count; ++r) {
    for (int o = 0; o < out; ++o) {
      double sum = 0;
      for (int i = 0; i < in; ++i)
        sum += double(w.values[size_t(o * in + i)]) * double(a.x[size_t(r * in + i)]);
      error += std::pow(double(y[size_t(r * out + o)]) - sum, 2);
      size += sum * sum;
    }
  }
  return std::sqrt(error / size);
}

// The table of docs/arithmetic.md.
TEST(Classes, AreAsFarFromTheExactProductAsDocumented) {
  struct Line {
    Arithmetic arithmetic;
    Type type;
    double uniform, spikes;
  };
  for (const Line& line : {
           Line{Arithmetic::kExactF32, Type::kQ4_1, 4.8e-7, 4.8e-7},
           Line{Arithmetic::kExactQ8, Type::kQ4_1, 0.0038, 0.0114},
           Line{Arithmetic::kExactQ8, Type::kQ6_K, 0.0039, 0.0235},
           Line{Arithmetic::kBf16Dot, Type::kBF16, 0.00151, 0.00158},
           Line{Arithmetic::kBf16Dot, Type::kQ4_1, 0.00224, 0.00227},
           Line{Arithmetic::kBf16Dot, Type::kQ6_K, 0.00228, 0.00228},
           Line{Arithmetic::kW8A8Row, Type::kBF16, 0.0056, 0.0283},
           Line{Arithmetic::kW8A8Row, Type::kQ4_1, 0.0054, 0.0282},
           Line{Arithmetic::kW8A8Row, Type::kQ6_K, 0.0056, 0.0284},
       }) {
    const std::string what =
        std::string(name(line.arithmetic)) + " " + std::string(info(line.type).name);
    const double uniform = relative_error(line.arithmetic, line.type, false),
                 spikes = relative_error(line.arithmetic, line.type, true);
    EXPECT_NEAR(uniform, line.uniform, 0.03 * line.uniform) << what;
    EXPECT_NEAR(spikes, line.spikes, 0.03 * line.spikes) << what;
  }
}

}  // namespace
}  // namespace tutti::tensor
