// Sixteen fp32 or int32 lanes in two AVX2 registers; the meaning of each function is
// scalar/lanes.h. Everything is internal to the file that includes it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tutti::tensor {
namespace {

constexpr int kHeads = 2;
constexpr int kDimLanes = 2;

struct Lanes {
  __m256 a, b;  // lanes 0-7, 8-15
};
struct Ints {
  __m256i a, b;
};
struct Mask {
  __m256 a, b;
};

alignas(64) constexpr int32_t kFirstLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                 -1, -1, -1, -1, -1, -1, -1, -1};
inline const __m256i* vector(const void* p) { return static_cast<const __m256i*>(p); }
inline Ints first_lanes(int n) {
  return {_mm256_loadu_si256(vector(kFirstLanes + 16 - n)),
          _mm256_loadu_si256(vector(kFirstLanes + 24 - n))};
}

inline Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Ints splat_int(uint32_t x) { return {_mm256_set1_epi32(int(x)), _mm256_set1_epi32(int(x))}; }
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Ints load_ints(const void* p) {
  return {_mm256_loadu_si256(vector(p)), _mm256_loadu_si256(vector(p) + 1)};
}
inline Lanes load_first(const float* p, int n, float fill) {
  const Ints m = first_lanes(n);
  const __m256 f = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(f, _mm256_maskload_ps(p, m.a), _mm256_castsi256_ps(m.a)),
          _mm256_blendv_ps(f, _mm256_maskload_ps(p + 8, m.b), _mm256_castsi256_ps(m.b))};
}
inline void store(float* p, Lanes v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline void store_ints(void* p, Ints v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, v.b);
}
inline void store_first(float* p, Lanes v, int n) {
  const Ints m = first_lanes(n);
  _mm256_maskstore_ps(p, m.a, v.a);
  _mm256_maskstore_ps(p + 8, m.b, v.b);
}

inline Lanes operator+(Lanes x, Lanes y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline Lanes operator-(Lanes x, Lanes y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline Lanes operator*(Lanes x, Lanes y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline Lanes operator/(Lanes x, Lanes y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline Lanes min(Lanes x, Lanes y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Lanes max(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes fma(Lanes x, Lanes y, Lanes z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

inline Ints bits(Lanes x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline Lanes floats(Ints x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline Lanes to_float(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Ints operator+(Ints x, Ints y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline Ints operator-(Ints x, Ints y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
inline Ints operator*(Ints x, Ints y) {
  return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
inline Ints operator&(Ints x, Ints y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
inline Ints operator|(Ints x, Ints y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
inline Ints operator^(Ints x, Ints y) {
  return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
template <int K>
Ints shift_left(Ints x) {
  return {_mm256_slli_epi32(x.a, K), _mm256_slli_epi32(x.b, K)};
}
template <int K>
Ints shift_right(Ints x) {
  return {_mm256_srli_epi32(x.a, K), _mm256_srli_epi32(x.b, K)};
}
template <int K>
Ints shift_right_signed(Ints x) {
  return {_mm256_srai_epi32(x.a, K), _mm256_srai_epi32(x.b, K)};
}
inline void multiply_wide(__m256i x, __m256i f, __m256i& high, __m256i& low) {
  const __m256i even = _mm256_mul_epu32(x, f);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), f);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
inline void multiply_wide(Ints x, uint32_t factor, Ints& high, Ints& low) {
  const __m256i f = _mm256_set1_epi32(int(factor));
  multiply_wide(x.a, f, high.a, low.a);
  multiply_wide(x.b, f, high.b, low.b);
}

inline Mask less(Lanes x, Lanes y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
inline Mask equal(Lanes x, Lanes y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
inline Mask equal(Ints x, Ints y) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(x.a, y.a)),
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(x.b, y.b))};
}
inline Lanes select(Mask m, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
inline Ints select(Mask m, Ints yes, Ints no) { return bits(select(m, floats(yes), floats(no))); }
inline unsigned mask_bits(Mask m) {
  return unsigned(_mm256_movemask_ps(m.a)) | unsigned(_mm256_movemask_ps(m.b)) << 8;
}

inline void transpose_quarters(__m256i& w0, __m256i& w1, __m256i& w2, __m256i& w3) {
  const __m256i a = _mm256_unpacklo_epi32(w0, w1), b = _mm256_unpackhi_epi32(w0, w1);
  const __m256i c = _mm256_unpacklo_epi32(w2, w3), d = _mm256_unpackhi_epi32(w2, w3);
  w0 = _mm256_unpacklo_epi64(a, c);
  w1 = _mm256_unpackhi_epi64(a, c);
  w2 = _mm256_unpacklo_epi64(b, d);
  w3 = _mm256_unpackhi_epi64(b, d);
}
inline void transpose_quarters(Ints w[4]) {
  transpose_quarters(w[0].a, w[1].a, w[2].a, w[3].a);
  transpose_quarters(w[0].b, w[1].b, w[2].b, w[3].b);
}

inline float sum(Lanes x) {
  const __m256 e = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float largest(Lanes x) {
  const __m256 e = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

inline Lanes load_half(const uint16_t* p) {
  const __m128i* at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
inline void store_half(uint16_t* p, Lanes x) {
  __m128i* at = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Lanes load_int8(const int8_t* p) {
  const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return to_float(Ints{_mm256_cvtepi8_epi32(q), _mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))});
}

// From two vectors of four pairs each: the even and the odd elements in order.
inline void split_pairs(__m256 x, __m256 y, __m256& even, __m256& odd) {
  const __m256 e = _mm256_shuffle_ps(x, y, 0x88), o = _mm256_shuffle_ps(x, y, 0xdd);
  even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(e), 0xd8));
  odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(o), 0xd8));
}
inline void load_pairs(const float* p, Lanes& first, Lanes& second) {
  split_pairs(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), first.a, second.a);
  split_pairs(_mm256_loadu_ps(p + 16), _mm256_loadu_ps(p + 24), first.b, second.b);
}
inline void store_pairs(float* p, __m256 first, __m256 second) {
  const __m256 low = _mm256_unpacklo_ps(first, second), high = _mm256_unpackhi_ps(first, second);
  _mm256_storeu_ps(p, _mm256_permute2f128_ps(low, high, 0x20));
  _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
inline void store_pairs(float* p, Lanes first, Lanes second) {
  store_pairs(p, first.a, second.a);
  store_pairs(p + 16, first.b, second.b);
}

}  // namespace
}  // namespace tutti::tensor
