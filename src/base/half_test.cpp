#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tutti {
namespace {

// The value of a half by the definition of IEEE 754 binary16.
double half_value(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

TEST(Half, AllValuesWidenExactlyAndComeBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = half_to_float(uint16_t(h));
    const double exact = half_value(uint16_t(h));
    if (exact != exact) {
      EXPECT_TRUE(f != f);
      EXPECT_EQ(float_to_half(f), h | 0x200u);  // NaN stays NaN, made quiet
    } else {
      ASSERT_EQ(double(f), exact) << h;
      ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0);
      ASSERT_EQ(float_to_half(f), h);
    }
  }
}

// Round to nearest, ties to even, in double: exact, as a double holds every float and every
// midpoint.
uint16_t rounded(float f) {
  const double magnitude = std::abs(double(f));
  uint32_t below = 0,
           above = 0x7c00;  // halves of one sign are ordered as integers; 7c00 stands for 65536
  const auto value = [](uint32_t h) { return h == 0x7c00 ? 65536.0 : half_value(uint16_t(h)); };
  if (magnitude >= 65536.0) {
    below = 0x7c00;
  } else {
    while (above - below > 1) {
      const uint32_t middle = (below + above) / 2;
      (value(middle) <= magnitude ? below : above) = middle;
    }
    const double down = magnitude - value(below), up = value(above) - magnitude;
    if (up < down || (up == down && (below & 1u))) below = above;
  }
  return uint16_t(below | (std::signbit(f) ? 0x8000u : 0u));
}

TEST(Half, NarrowingRoundsToNearestEven) {
  std::vector<float> x = {0x1p-25f,
                          0x1.000002p-25f,
                          0x1p-26f,
                          65504.0f,
                          65519.996f,
                          65520.0f,
                          1e30f,
                          1e-30f,
                          std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::denorm_min()};
  for (uint32_t h = 0; h < 0x7c00; ++h) {  // around every half and every midpoint
    const float a = half_to_float(uint16_t(h)),
                b = h == 0x7bff ? 65536.0f : half_to_float(uint16_t(h + 1));
    const float middle = float((double(a) + double(b)) / 2);
    for (float y : {a, middle}) {
      x.push_back(y);
      x.push_back(std::nextafter(y, 1e38f));
      x.push_back(std::nextafter(y, -1e38f));
    }
  }
  for (uint64_t bits = 0; bits < 0x7f800000u; bits += 19997) {
    x.push_back(std::bit_cast<float>(uint32_t(bits)));
  }
  for (float y : x) {
    ASSERT_EQ(float_to_half(y), rounded(y)) << y;
    ASSERT_EQ(float_to_half(-y), rounded(-y)) << -y;
  }
}

TEST(Bfloat16, RoundTripsAndRoundsToNearestEven) {
  for (uint32_t b = 0; b < 65536; ++b) {
    const float f = bfloat16_to_float(uint16_t(b));
    if (f != f) {
      EXPECT_EQ(float_to_bfloat16(f), b | 0x40u);
      continue;
    }
    ASSERT_EQ(float_to_bfloat16(f), b);
    if ((b & 0x7fffu) >= 0x7f7fu) continue;
    // between b and its neighbour away from zero
    const float next = bfloat16_to_float(uint16_t(b + 1));
    const float middle = float((double(f) + double(next)) / 2);
    ASSERT_EQ(float_to_bfloat16(middle), b & 1u ? b + 1 : b);
    ASSERT_EQ(float_to_bfloat16(std::nextafter(middle, f)), b);
    ASSERT_EQ(float_to_bfloat16(std::nextafter(middle, next)), b + 1);
  }
  EXPECT_EQ(bfloat16_to_float(float_to_bfloat16(std::numeric_limits<float>::max())),
            std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace tutti
