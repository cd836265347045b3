// Sixteen fp32 or int32 lanes, in plain C++: the meaning that the vector versions must reproduce
// bit for bit. Everything is internal to the file that includes it.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace tutti::tensor {
namespace {

constexpr int kHeads = 4;     // query heads whose accumulators are held at once
constexpr int kDimLanes = 2;  // groups of 16 output dimensions held at once

struct Lanes {
  float v[16];
};
struct Ints {
  uint32_t v[16];
};
struct Mask {
  bool v[16];
};

template <class To, class From, class F>
To map(const From& a, F f) {
  To r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(a.v[i]);
  return r;
}
template <class To, class From, class F>
To map(const From& a, const From& b, F f) {
  To r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(a.v[i], b.v[i]);
  return r;
}

inline Lanes splat(float x) {
  Lanes r;
  for (float& lane : r.v) lane = x;
  return r;
}
inline Ints splat_int(uint32_t x) {
  Ints r;
  for (uint32_t& lane : r.v) lane = x;
  return r;
}
inline Lanes load(const float* p) {
  Lanes r;
  std::memcpy(r.v, p, sizeof(r.v));
  return r;
}
inline Ints load_ints(const void* p) {
  Ints r;
  std::memcpy(r.v, p, sizeof(r.v));
  return r;
}
// The first n of 16; the others are `fill`.
inline Lanes load_first(const float* p, int n, float fill) {
  Lanes r = splat(fill);
  for (int i = 0; i < n; ++i) r.v[i] = p[i];
  return r;
}
inline void store(float* p, Lanes a) { std::memcpy(p, a.v, sizeof(a.v)); }
inline void store_ints(void* p, Ints a) { std::memcpy(p, a.v, sizeof(a.v)); }
inline void store_first(float* p, Lanes a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}

inline Lanes operator+(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x + y; });
}
inline Lanes operator-(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x - y; });
}
inline Lanes operator*(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x * y; });
}
inline Lanes operator/(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x / y; });
}
// The second operand when either is NaN or both are zero, as the x86 instructions do.
inline Lanes min(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline Lanes max(Lanes a, Lanes b) {
  return map<Lanes>(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  Lanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return r;
}

inline Ints bits(Lanes a) { return __builtin_bit_cast(Ints, a); }
inline Lanes floats(Ints a) { return __builtin_bit_cast(Lanes, a); }
inline Lanes to_float(Ints a) {  // signed
  return map<Lanes>(a, [](uint32_t x) { return float(int32_t(x)); });
}
inline Ints operator+(Ints a, Ints b) {
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
inline Ints operator-(Ints a, Ints b) {
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
inline Ints operator*(Ints a, Ints b) {  // the lower halves
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x * y; });
}
inline Ints operator&(Ints a, Ints b) {
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x & y; });
}
inline Ints operator|(Ints a, Ints b) {
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x | y; });
}
inline Ints operator^(Ints a, Ints b) {
  return map<Ints>(a, b, [](uint32_t x, uint32_t y) { return x ^ y; });
}
template <int K>
Ints shift_left(Ints a) {
  return map<Ints>(a, [](uint32_t x) { return x << K; });
}
template <int K>
Ints shift_right(Ints a) {  // zeros come in
  return map<Ints>(a, [](uint32_t x) { return x >> K; });
}
template <int K>
Ints shift_right_signed(Ints a) {
  return map<Ints>(a, [](uint32_t x) { return uint32_t(int32_t(x) >> K); });
}
// Full 64-bit products with one factor for all lanes, as high and low words.
inline void multiply_wide(Ints a, uint32_t factor, Ints& high, Ints& low) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = uint64_t(a.v[i]) * factor;
    high.v[i] = uint32_t(product >> 32);
    low.v[i] = uint32_t(product);
  }
}

inline Mask less(Lanes a, Lanes b) {
  return map<Mask>(a, b, [](float x, float y) { return x < y; });
}
inline Mask equal(Lanes a, Lanes b) {
  return map<Mask>(a, b, [](float x, float y) { return x == y; });
}
inline Mask equal(Ints a, Ints b) {
  return map<Mask>(a, b, [](uint32_t x, uint32_t y) { return x == y; });
}
inline Lanes select(Mask m, Lanes yes, Lanes no) {
  Lanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = m.v[i] ? yes.v[i] : no.v[i];
  return r;
}
inline Ints select(Mask m, Ints yes, Ints no) {
  Ints r;
  for (int i = 0; i < 16; ++i) r.v[i] = m.v[i] ? yes.v[i] : no.v[i];
  return r;
}
inline unsigned mask_bits(Mask m) {
  unsigned r = 0;
  for (int i = 0; i < 16; ++i) r |= unsigned(m.v[i]) << i;
  return r;
}

// Transposes each quarter of four lanes: lane 4L+w of result j is lane 4L+j of word w.
inline void transpose_quarters(Ints w[4]) {
  const Ints in[4] = {w[0], w[1], w[2], w[3]};
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < 16; ++i) w[j].v[i] = in[i % 4].v[i / 4 * 4 + j];
  }
}

// The fixed tree: i with i+8, then i+4, i+2, i+1.
inline float sum(Lanes a) {
  for (int step = 8; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] + a.v[i + step];
  }
  return a.v[0];
}
inline float largest(Lanes a) {
  for (int step = 8; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
  }
  return a.v[0];
}

inline Lanes load_half(const uint16_t* p) {
  Lanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = half_to_float(p[i]);
  return r;
}
inline void store_half(uint16_t* p, Lanes a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.v[i]);
}
inline Lanes load_int8(const int8_t* p) {
  Lanes r;
  for (int i = 0; i < 16; ++i) r.v[i] = float(p[i]);
  return r;
}

// 32 floats as 16 pairs: the first of each pair and the second.
inline void load_pairs(const float* p, Lanes& first, Lanes& second) {
  for (int i = 0; i < 16; ++i) {
    first.v[i] = p[2 * i];
    second.v[i] = p[2 * i + 1];
  }
}
inline void store_pairs(float* p, Lanes first, Lanes second) {
  for (int i = 0; i < 16; ++i) {
    p[2 * i] = first.v[i];
    p[2 * i + 1] = second.v[i];
  }
}

}  // namespace
}  // namespace tutti::tensor
