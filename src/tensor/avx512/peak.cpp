// Register loops for the compute roof (peak.h). Twelve chains hide the latency of every operation.
#include <immintrin.h>

#include "tensor/peak.h"

namespace tutti::tensor::avx512 {
namespace {

constexpr int kChains = 12;

// The compiler cannot know what is in `x` afterwards.
template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+v"(x));
}

template <bool scales, bool minimum>
void blocks(int rounds) {
  __m512i w = _mm512_set1_epi32(0x01020304), a = _mm512_set1_epi32(0x01010101);
  __m512 d = _mm512_set1_ps(0.5f), m = d, sum[kChains];
  __m512i dot[kChains];
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm512_setzero_ps();
    dot[c] = _mm512_setzero_si512();
  }
  for (int i = 0; i < rounds; ++i) {
    touch(w);
    touch(a);
    touch(d);
    touch(m);
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      touch(a);  // or all chains' dots would be one
      if constexpr (scales) dot[c] = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) dot[c] = _mm512_dpbusd_epi32(dot[c], w, a);
      if constexpr (scales) {
        __m512 scale = d;
        touch(scale);  // a product of its own for every chain
        sum[c] = _mm512_fmadd_ps(_mm512_mul_ps(scale, d), _mm512_cvtepi32_ps(dot[c]), sum[c]);
        if constexpr (minimum) sum[c] = _mm512_fmadd_ps(m, d, sum[c]);
      }
    }
  }
  for (int c = 0; c < kChains; ++c) {
    touch(sum[c]);
    touch(dot[c]);
  }
}

void floats(int rounds) {
  __m512 w = _mm512_set1_ps(0.5f), sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
    touch(w);
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], w, w);
  }
  for (int c = 0; c < kChains; ++c) touch(sum[c]);
}

}  // namespace

int peak(Peak peak, int rounds) {
  constexpr int kBlocks = kChains * 32 * 16;
  switch (peak) {
    case Peak::kDots:
      blocks<false, false>(rounds);
      return kBlocks;
    case Peak::kExactQ8:
      blocks<true, false>(rounds);
      return kBlocks;
    case Peak::kExactQ8Min:
      blocks<true, true>(rounds);
      return kBlocks;
    default:  // kFloat
      break;
  }
  floats(rounds);
  return kChains * 16;
}

}  // namespace tutti::tensor::avx512
