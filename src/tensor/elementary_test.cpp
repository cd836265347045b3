// The elementary functions against long double, and every level against the scalar one.
#include <gtest/gtest.h>

#include <cmath>

#include "tensor/trial.h"

namespace tutti::tensor {
namespace {

// A dense walk over all binades, both signs.
std::vector<float> sweep(uint32_t step) {
  std::vector<float> r;
  for (uint64_t bits = 1; bits < 0x7f800000u; bits += step) {
    r.push_back(std::bit_cast<float>(uint32_t(bits)));
    r.push_back(-r.back());
  }
  for (float x : adversarial_floats()) r.push_back(x);
  return r;
}

using Unary = void (*)(const float*, int, float*);
std::vector<float> values_of(Unary f, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  f(x.data(), int(x.size()), y.data());
  return y;
}

TEST(Exp, WithinOneUlp) {
  Trial trial(1);
  std::vector<float> x = sweep(104729);
  for (int i = 0; i < 200000; ++i) x.push_back(trial.uniform(-105, 89.5f));
  const auto y = values_of(kernels(Isa::kScalar).exp, x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] != x[i]) {
      EXPECT_TRUE(y[i] != y[i]);
      continue;
    }
    const long double exact = std::exp((long double)x[i]);
    if (float(exact) == std::numeric_limits<float>::infinity() || exact < 0x1p-151L) {
      ASSERT_EQ(y[i], float(exact)) << x[i];
      continue;
    }
    worst = std::max(worst, ulps(y[i], exact));
    ASSERT_LE(ulps(y[i], exact), 1.01) << x[i];
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_EQ(values_of(kernels(Isa::kScalar).exp, {0.0f})[0], 1.0f);
}

TEST(Log, WithinOneUlp) {
  Trial trial(2);
  std::vector<float> x = sweep(104729);
  for (int i = 0; i < 200000; ++i) x.push_back(trial.uniform(0.5f, 2.0f));
  for (float around : {1.0f, 0x1.6a09e6p-1f, 0x1.6a09e6p0f}) {
    for (int i = -2000; i <= 2000; ++i) {
      x.push_back(std::bit_cast<float>(std::bit_cast<int32_t>(around) + i));
    }
  }
  const auto y = values_of(kernels(Isa::kScalar).log, x);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!(x[i] > 0) || x[i] == std::numeric_limits<float>::infinity()) {
      ASSERT_TRUE(same_bits(y[i], float(std::log(x[i])))) << x[i];
      continue;
    }
    if (x[i] == 1.0f) {
      ASSERT_EQ(y[i], 0.0f);
      continue;
    }
    ASSERT_LE(ulps(y[i], std::log((long double)x[i])), 1.0) << x[i];
  }
}

TEST(CosSin, WithinOneTenMillionth) {
  Trial trial(3);
  std::vector<float> x = {0.0f,       -0.0f, 1e-30f, 0.78539816f, 1.5707964f,
                          3.1415927f, 1e6f,  -1e6f,  2e8f};
  for (float range : {1.0f, 10.0f, 1000.0f, 131072.0f, 1e6f, 2e8f}) {
    for (int i = 0; i < 50000; ++i) x.push_back(trial.uniform(-range, range));
  }
  for (int i = 0; i < 100000; ++i)
    x.push_back(float(i));  // positions: the first rotary frequency is 1
  std::vector<float> c(x.size()), s(x.size());
  kernels(Isa::kScalar).cos_sin(x.data(), int(x.size()), c.data(), s.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_LE(std::abs(c[i] - std::cos((long double)x[i])), 0.5e-7L) << x[i];
    ASSERT_LE(std::abs(s[i] - std::sin((long double)x[i])), 0.5e-7L) << x[i];
  }
  const float bad[] = {std::numeric_limits<float>::infinity(), std::nanf(""), 1e10f};
  kernels(Isa::kScalar).cos_sin(bad, 3, c.data(), s.data());
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(c[size_t(i)] != c[size_t(i)] && s[size_t(i)] != s[size_t(i)]);
}

long double exact_activation(Activation a, long double x) {
  switch (a) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGeluTanh: {
      const long double u = std::sqrt(2.0L / 3.14159265358979323846L) * (x + 0.044715L * x * x * x);
      return x / (1 + std::exp(-2 * u));  // = x/2 (1 + tanh u), without cancellation
    }
    case Activation::kGelu:
      return 0.5L * x * std::erfc(-x / std::sqrt(2.0L));
    case Activation::kRelu:
      return x > 0 ? x : 0;
  }
  return 0;
}

TEST(Gated, CloseToTheFormulas) {
  Trial trial(4);
  std::vector<float> gate, up;
  for (int i = 0; i < 100000; ++i) gate.push_back(trial.uniform(-13, 13));
  for (int i = 0; i < 20000; ++i) gate.push_back(trial.uniform(-1e-3f, 1e-3f));
  for (float x : {0.0f, 30.0f, 1e4f, 1e30f, -30.0f, -1e4f, -1e30f}) gate.push_back(x);
  up.assign(gate.size(), 1.0f);
  std::vector<float> y(gate.size());
  const struct {
    Activation activation;
    double near, tail;  // relative bounds where |x| < 4 or x > 0, and in the lower tail
  } cases[] = {{Activation::kSilu, 4e-7, 4e-7},
               {Activation::kGeluTanh, 4e-6, 1e-4},
               {Activation::kGelu, 6e-7, 4e-6},
               {Activation::kRelu, 0, 0}};
  for (const auto& c : cases) {
    kernels(Isa::kScalar).gated(c.activation, gate.data(), up.data(), int(gate.size()), y.data());
    double worst_near = 0, worst_tail = 0;
    for (size_t i = 0; i < gate.size(); ++i) {
      const long double exact = exact_activation(c.activation, gate[i]);
      if (std::abs(exact) < 1e-35L) {
        ASSERT_LE(std::abs(y[i]), 1e-35f) << gate[i];
        continue;
      }
      const double error = std::abs(double((y[i] - exact) / exact));
      double& worst = gate[i] > -4 ? worst_near : worst_tail;
      worst = std::max(worst, error);
    }
    EXPECT_LE(worst_near, c.near) << int(c.activation);
    EXPECT_LE(worst_tail, c.tail) << int(c.activation);
  }
  // the second factor is one rounded product
  up = trial.normals(int(gate.size()));
  std::vector<float> alone(gate.size());
  const std::vector<float> ones(gate.size(), 1.0f);
  kernels(Isa::kScalar)
      .gated(Activation::kSilu, gate.data(), ones.data(), int(gate.size()), alone.data());
  kernels(Isa::kScalar)
      .gated(Activation::kSilu, gate.data(), up.data(), int(gate.size()), y.data());
  for (size_t i = 0; i < gate.size(); ++i) ASSERT_EQ(y[i], alone[i] * up[i]);
}

TEST(SoftCap, CloseToTanh) {
  Trial trial(5);
  std::vector<float> x;
  for (int i = 0; i < 100000; ++i) x.push_back(trial.uniform(-12, 12));
  for (int i = 0; i < 20000; ++i) x.push_back(trial.uniform(-0.01f, 0.01f));
  for (float v : {0.0f, -0.0f, 0.625f, 100.0f, -100.0f, 1e30f, 1e-40f}) x.push_back(v);
  std::vector<float> y = x;
  kernels(Isa::kScalar).soft_cap(1.0f, int(y.size()), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == 0) {
      ASSERT_TRUE(same_bits(y[i], x[i]));
      continue;
    }
    ASSERT_LE(ulps(y[i], std::tanh((long double)x[i])), 2.0) << x[i];
  }
  std::vector<float> capped = {500.0f, -500.0f, 10.0f};
  kernels(Isa::kScalar).soft_cap(30.0f, 3, capped.data());
  EXPECT_EQ(capped[0], 30.0f);
  EXPECT_EQ(capped[1], -30.0f);
  EXPECT_NEAR(capped[2], 30 * std::tanh(10.0 / 30), 2e-6);
}

TEST(Elementary, EveryLevelGivesTheScalarBits) {
  const std::vector<float> x = sweep(49999);
  const Kernels& scalar = kernels(Isa::kScalar);
  std::vector<float> c0(x.size()), s0(x.size());
  scalar.cos_sin(x.data(), int(x.size()), c0.data(), s0.data());
  const auto exp0 = values_of(scalar.exp, x), log0 = values_of(scalar.log, x);
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(name(isa));
    const Kernels& k = kernels(isa);
    EXPECT_EQ(k.isa, isa);
    expect_same_bits(values_of(k.exp, x), exp0, "exp");
    expect_same_bits(values_of(k.log, x), log0, "log");
    std::vector<float> c(x.size()), s(x.size());
    k.cos_sin(x.data(), int(x.size()), c.data(), s.data());
    expect_same_bits(c, c0, "cos");
    expect_same_bits(s, s0, "sin");
    for (auto activation :
         {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu, Activation::kRelu}) {
      std::vector<float> up(x.size(), 1.25f), a(x.size()), b(x.size());
      scalar.gated(activation, x.data(), up.data(), int(x.size()), a.data());
      k.gated(activation, x.data(), up.data(), int(x.size()), b.data());
      expect_same_bits(b, a, "gated");
    }
    std::vector<float> a = x, b = x;
    scalar.soft_cap(30.0f, int(x.size()), a.data());
    k.soft_cap(30.0f, int(x.size()), b.data());
    expect_same_bits(b, a, "soft_cap");
  }
}

TEST(Elementary, ShortAndOddLengthsTouchNothingElse) {
  Trial trial(6);
  for (Isa isa : available_isas()) {
    const Kernels& k = kernels(isa);
    for (int n = 0; n <= 50; ++n) {
      const auto x = trial.normals(n);
      std::vector<float> y(size_t(n) + 16, 7.0f);
      k.exp(x.data(), n, y.data());
      for (int i = 0; i < n; ++i) {
        float one;
        k.exp(&x[size_t(i)], 1, &one);
        ASSERT_EQ(one, y[size_t(i)]);  // an element's value does not depend on its place
      }
      for (size_t i = size_t(n); i < y.size(); ++i) ASSERT_EQ(y[i], 7.0f);
    }
  }
}

}  // namespace
}  // namespace tutti::tensor
