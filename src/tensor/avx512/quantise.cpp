// Activations to bytes with AVX-512. Maxima and sums are taken of several blocks side by side: a
// vector's own reduction would cost more than all else.
#include <immintrin.h>

#include "tensor/levels.h"

namespace tutti::tensor::avx512 {
namespace {

inline __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

// Lane i: the largest lane of v[i].
inline __m128i largest_of_four(const __m512i (&v)[4]) {
  const __m512i a =
      _mm512_max_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i b =
      _mm512_max_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  const __m512i c = _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const __m256i d = _mm256_max_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
  return _mm_max_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
}

// From the bits of the largest magnitudes of four blocks: 127 / amax, 0 where nothing can be
// quantised, and amax / 127, NaN where the block holds an infinity or NaN.
struct FourScales {
  __m128 inverse, scale;
};
inline FourScales scales_of(__m128i bits) {
  const __m128 infinity = _mm_set1_ps(__builtin_inff()), all = _mm_set1_ps(127.0f);
  const __m128 largest = _mm_castsi128_ps(bits);
  const __m128 inverse = _mm_div_ps(all, largest);
  const __m128 poisoned = _mm_castsi128_ps(_mm_cmpgt_epi32(bits, _mm_set1_epi32(0x7f800000 - 1)));
  const __m128 usable = _mm_andnot_ps(poisoned, _mm_cmplt_ps(inverse, infinity));
  return {_mm_and_ps(usable, inverse),
          _mm_or_ps(_mm_and_ps(poisoned, _mm_set1_ps(__builtin_nanf(""))),
                    _mm_and_ps(usable, _mm_div_ps(largest, all)))};
}

// 64 elements: their bytes, and the sums of each 16. |x| * (127 / amax) never rounds above 127, so
// nothing is clamped.
inline void quantise_64(const __m512 (&x)[4], const __m512 (&inverse)[4], int8_t* q,
                        int32_t* sums) {
  __m512i whole[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __mmask16 usable = _mm512_cmp_ps_mask(inverse[i], _mm512_setzero_ps(), _CMP_NEQ_OQ);
    whole[i] = _mm512_maskz_cvtps_epi32(usable, _mm512_mul_ps(x[i], inverse[i]));
  }
  // Dword 4 l + i holds elements 4 l ... of vector i.
  const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                                           _mm512_packs_epi32(whole[2], whole[3]));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(q, _mm512_permutexvar_epi32(order, bytes));
  const __m512i fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
  const __m256i eights =
      _mm256_add_epi32(_mm512_castsi512_si256(fours), _mm512_extracti64x4_epi64(fours, 1));
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(sums),
      _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1)));
}

// The same for 16 elements.
inline void quantise_16(const float* x, float inverse, int8_t* q, int32_t* sum) {
  const __mmask16 usable = inverse != 0.0f ? 0xffff : 0;
  const __m512i whole =
      _mm512_maskz_cvtps_epi32(usable, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(whole));
  *sum = _mm512_reduce_add_epi32(whole);
}

// Four blocks of 32.
inline void quantise_four(const float* from, int8_t* q, float* scales, int32_t* sums) {
  __m512 x[8];
  __m512i largest[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = _mm512_loadu_ps(from + 32 * i);
    x[2 * i + 1] = _mm512_loadu_ps(from + 32 * i + 16);
    largest[i] = _mm512_max_epi32(magnitude(x[2 * i]), magnitude(x[2 * i + 1]));
  }
  const FourScales s = scales_of(largest_of_four(largest));
  _mm_storeu_ps(scales, s.scale);
  const __m512 each = _mm512_broadcast_f32x4(s.inverse);
  const __m512 inverse[4] = {_mm512_permute_ps(each, 0x00), _mm512_permute_ps(each, 0x55),
                             _mm512_permute_ps(each, 0xaa), _mm512_permute_ps(each, 0xff)};
  quantise_64({x[0], x[1], x[2], x[3]}, {inverse[0], inverse[0], inverse[1], inverse[1]}, q, sums);
  quantise_64({x[4], x[5], x[6], x[7]}, {inverse[2], inverse[2], inverse[3], inverse[3]}, q + 64,
              sums + 4);
}

// One block of any multiple of 16.
void quantise_block(const float* from, int n, int8_t* q, float* scale, int32_t* sums) {
  __m512i bits = _mm512_setzero_si512();
  for (int i = 0; i < n; i += 16) {
    bits = _mm512_max_epi32(bits, magnitude(_mm512_loadu_ps(from + i)));
  }
  const FourScales s = scales_of(_mm_set1_epi32(_mm512_reduce_max_epi32(bits)));
  *scale = _mm_cvtss_f32(s.scale);
  const float one = _mm_cvtss_f32(s.inverse);
  const __m512 inverse = _mm512_set1_ps(one);
  int i = 0;
  for (; i + 64 <= n; i += 64) {
    quantise_64({_mm512_loadu_ps(from + i), _mm512_loadu_ps(from + i + 16),
                 _mm512_loadu_ps(from + i + 32), _mm512_loadu_ps(from + i + 48)},
                {inverse, inverse, inverse, inverse}, q + i, sums + i / 16);
  }
  for (; i < n; i += 16) quantise_16(from + i, one, q + i, sums + i / 16);
}

}  // namespace

void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first) {
  const int n = out.n, block = out.block;
  for (int r = 0; r < rows; ++r) {
    const float* from = x + size_t(r) * stride;
    int8_t* q = out.q + size_t(first + r) * size_t(n);
    float* scales = out.scales + size_t(first + r) * size_t(n / block);
    int32_t* sums = out.sums + size_t(first + r) * size_t(n / 16);
    int b = 0;
    for (; block == 32 && b + 4 <= n / 32; b += 4) {
      quantise_four(from + 32 * b, q + 32 * b, scales + b, sums + 2 * b);
    }
    for (; b < n / block; ++b) {
      const int at = b * block;
      quantise_block(from + at, block, q + at, scales + b, sums + at / 16);
    }
  }
}

}  // namespace tutti::tensor::avx512
