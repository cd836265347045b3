// Register loops for the compute roof (peak.h) with VPDPBUSD of 256 bits.
#include "tensor/peak.h"

#include <immintrin.h>

namespace tutti::tensor::avxvnni {
namespace {

constexpr int kChains = 4;  // sixteen registers

// The compiler cannot know what is in `x` afterwards.
template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+x"(x));
}

template <bool scales, bool minimum>
void blocks(int rounds) {
  __m256i w = _mm256_set1_epi32(0x01020304), a = _mm256_set1_epi32(0x01010101), dot[kChains];
  __m256 d = _mm256_set1_ps(0.5f), m = d, sum[kChains];
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm256_setzero_ps();
    dot[c] = _mm256_setzero_si256();
  }
  for (int i = 0; i < rounds; ++i) {
    touch(d);
    touch(m);
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      touch(w);  // else every chain's dot is the first one's
      touch(a);
      if constexpr (scales) dot[c] = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) dot[c] = _mm256_dpbusd_avx_epi32(dot[c], w, a);
      if constexpr (scales) {
        __m256 scale = d;
        touch(scale);  // a product of its own for every chain
        sum[c] = _mm256_fmadd_ps(_mm256_mul_ps(scale, d), _mm256_cvtepi32_ps(dot[c]), sum[c]);
        if constexpr (minimum) sum[c] = _mm256_fmadd_ps(m, d, sum[c]);
      }
    }
  }
  for (int c = 0; c < kChains; ++c) {
    touch(sum[c]);
    touch(dot[c]);
  }
}

}  // namespace

int peak(Peak peak, int rounds) {
  switch (peak) {
    case Peak::kExactQ8:
      blocks<true, false>(rounds);
      break;
    case Peak::kExactQ8Min:
      blocks<true, true>(rounds);
      break;
    default:
      blocks<false, false>(rounds);
  }
  return kChains * 32 * 8;
}

}  // namespace tutti::tensor::avxvnni
