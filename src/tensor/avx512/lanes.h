// Sixteen fp32 or int32 lanes in one AVX-512 register; the meaning of each function is
// scalar/lanes.h. Everything is internal to the file that includes it.
#pragma once

#include <immintrin.h>

#include <cstdint>

// g++ 12's own intrinsics read the undefined operand of a full mask, which it then warns about (GCC
// bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace tutti::tensor {
namespace {

constexpr int kHeads = 4;
constexpr int kDimLanes = 4;

struct Lanes {
  __m512 v;
};
struct Ints {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

inline __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1u); }

inline Lanes splat(float x) { return {_mm512_set1_ps(x)}; }
inline Ints splat_int(uint32_t x) { return {_mm512_set1_epi32(int(x))}; }
inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Ints load_ints(const void* p) { return {_mm512_loadu_si512(p)}; }
inline Lanes load_first(const float* p, int n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(n), p)};
}
inline void store(float* p, Lanes a) { _mm512_storeu_ps(p, a.v); }
inline void store_ints(void* p, Ints a) { _mm512_storeu_si512(p, a.v); }
inline void store_first(float* p, Lanes a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Lanes min(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

inline Ints bits(Lanes a) { return {_mm512_castps_si512(a.v)}; }
inline Lanes floats(Ints a) { return {_mm512_castsi512_ps(a.v)}; }
inline Lanes to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Ints operator*(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Ints operator^(Ints a, Ints b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int K>
Ints shift_left(Ints a) {
  return {_mm512_slli_epi32(a.v, K)};
}
template <int K>
Ints shift_right(Ints a) {
  return {_mm512_srli_epi32(a.v, K)};
}
template <int K>
Ints shift_right_signed(Ints a) {
  return {_mm512_srai_epi32(a.v, K)};
}
inline void multiply_wide(Ints a, uint32_t factor, Ints& high, Ints& low) {
  const __m512i f = _mm512_set1_epi32(int(factor));
  const __m512i even = _mm512_mul_epu32(a.v, f);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), f);
  high.v = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  low.v = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}

inline Mask less(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask equal(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline Mask equal(Ints a, Ints b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
inline Lanes select(Mask m, Lanes yes, Lanes no) {
  return {_mm512_mask_blend_ps(m.v, no.v, yes.v)};
}
inline Ints select(Mask m, Ints yes, Ints no) {
  return {_mm512_mask_blend_epi32(m.v, no.v, yes.v)};
}
inline unsigned mask_bits(Mask m) { return unsigned(m.v); }

inline void transpose_quarters(Ints w[4]) {
  const __m512i a = _mm512_unpacklo_epi32(w[0].v, w[1].v),
                b = _mm512_unpackhi_epi32(w[0].v, w[1].v);
  const __m512i c = _mm512_unpacklo_epi32(w[2].v, w[3].v),
                d = _mm512_unpackhi_epi32(w[2].v, w[3].v);
  w[0].v = _mm512_unpacklo_epi64(a, c);
  w[1].v = _mm512_unpackhi_epi64(a, c);
  w[2].v = _mm512_unpacklo_epi64(b, d);
  w[3].v = _mm512_unpackhi_epi64(b, d);
}

inline float sum(Lanes a) {
  const __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float largest(Lanes a) {
  const __m256 e = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

inline Lanes load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(uint16_t* p, Lanes a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Lanes load_int8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

inline void load_pairs(const float* p, Lanes& first, Lanes& second) {
  const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  first.v = _mm512_permutex2var_ps(a, even, b);
  second.v = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
inline void store_pairs(float* p, Lanes first, Lanes second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  _mm512_storeu_ps(p, _mm512_permutex2var_ps(first.v, low, second.v));
  _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(
                               first.v, _mm512_add_epi32(low, _mm512_set1_epi32(8)), second.v));
}

}  // namespace
}  // namespace tutti::tensor
