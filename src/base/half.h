// IEEE half and bfloat16 as storage formats: exact widening, round-to-nearest-even narrowing.
// Everything is static, so that a file compiled for one instruction set keeps its own copy.
#pragma once

#include <bit>
#include <cstdint>

namespace tutti {

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = float(mantissa) * 0x1p-24f;  // subnormal halves are exact in fp32
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline uint16_t float_to_half(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {  // infinity stays, NaN stays quiet with its top payload bits
    return uint16_t(sign | 0x7c00u |
                    (magnitude > 0x7f800000u ? 0x200u | ((magnitude >> 13) & 0x3ffu) : 0));
  }
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                  // below 2^-14: subnormal or zero
    if (magnitude < 0x33000000u) return sign;
    const uint32_t exponent = magnitude >> 23;
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t shift = 126u - exponent;
    const uint32_t rest = mantissa & ((1u << shift) - 1u);
    const uint32_t midpoint = 1u << (shift - 1u);
    uint32_t value = mantissa >> shift;
    if (rest > midpoint || (rest == midpoint && (value & 1u))) ++value;
    return uint16_t(sign | value);
  }
  uint32_t value = magnitude - 0x38000000u;
  value += 0xfffu + ((value >> 13) & 1u);
  return uint16_t(sign | (value >> 13));
}

static inline float bfloat16_to_float(uint16_t b) {
  return std::bit_cast<float>(uint32_t(b) << 16);
}

static inline uint16_t float_to_bfloat16(float f) {
  uint32_t bits = std::bit_cast<uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return uint16_t(bits >> 16);
}

}  // namespace tutti
