// What the tests of the kernels share: random rows, and comparison by bits.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/draws.h"
#include "tensor/kernels.h"

namespace tutti::tensor {

// Test numbers as kernels want them.
class Trial : public Draws {
 public:
  using Draws::Draws;
  float normal() {  // Box-Muller
    const double u = uniform_open(word()), v = uniform_open(word());
    return float(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
  }
  std::vector<float> normals(int n, float deviation = 1.0f) {
    std::vector<float> r(static_cast<size_t>(n));
    for (float& x : r) x = deviation * normal();
    return r;
  }
};

// Numbers where implementations differ: zeros, subnormals, range ends, infinities, NaN.
inline std::vector<float> adversarial_floats() {
  using Limit = std::numeric_limits<float>;
  std::vector<float> r;
  for (float x : {0.0f,           Limit::denorm_min(),
                  0x1p-140f,      Limit::min(),
                  1e-30f,         1e-10f,
                  0x1p-24f,       0.1f,
                  0.5f,           0.625f,
                  0x1.6a09e6p-1f, 1.0f,
                  1.5f,           2.0f,
                  3.1415927f,     10.0f,
                  87.3f,          88.72283f,
                  88.8f,          103.97f,
                  104.5f,         1000.0f,
                  65504.0f,       65520.0f,
                  1e10f,          1e30f,
                  Limit::max(),   Limit::infinity()}) {
    r.push_back(x);
    r.push_back(-x);
  }
  r.push_back(Limit::quiet_NaN());
  return r;
}

// Equal by bits; any NaN equals any other.
inline bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}
inline void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b,
                             const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(same_bits(a[i], b[i]))
        << what << " differs at " << i << ": " << a[i] << " and " << b[i];
  }
}

// Distance of `got` from the exact value in units of the last place of fp32 there.
inline double ulps(float got, long double exact) {
  if (float(exact) == got)
    return std::abs(double((exact - got) / std::ldexp(1.0L, -149))) < 1 ? 0 : 0.5;
  int exponent;
  std::frexp(exact, &exponent);
  const int last = exponent - 24 < -149 ? -149 : exponent - 24;
  return double(std::abs((long double)got - exact) / std::ldexp(1.0L, last));
}

}  // namespace tutti::tensor
