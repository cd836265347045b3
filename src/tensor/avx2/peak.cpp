// Register loops for the compute roof (peak.h). Eight chains hide the latency of every operation.
#include <immintrin.h>

#include "tensor/peak.h"

namespace tutti::tensor::avx2 {
namespace {

constexpr int kChains = 4;  // of dots, with what they need beside them; sixteen registers
constexpr int kFloatChains = 8;

// The compiler cannot know what is in `x` afterwards.
template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+x"(x));
}

template <bool scales, bool minimum>
void blocks(int rounds) {
  __m256i w = _mm256_set1_epi32(0x01020304), a = _mm256_set1_epi32(0x01010101);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 d = _mm256_set1_ps(0.5f), sum[kChains];
  __m256i total[kChains];
  for (int c = 0; c < kChains; ++c) {
    sum[c] = _mm256_setzero_ps();
    total[c] = _mm256_setzero_si256();
  }
  for (int i = 0; i < rounds; ++i) {
    touch(d);
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      touch(w);
      touch(a);
      __m256i pairs = _mm256_maddubs_epi16(w, a);
#pragma GCC unroll 8
      for (int g = 1; g < 8; ++g) {
        touch(w);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, a));
      }
      const __m256i dot = _mm256_madd_epi16(pairs, ones);
      if constexpr (scales) {
        __m256 scale = d;
        touch(scale);  // a product of its own for every chain
        sum[c] = _mm256_fmadd_ps(_mm256_mul_ps(scale, d), _mm256_cvtepi32_ps(dot), sum[c]);
        if constexpr (minimum) sum[c] = _mm256_fmadd_ps(scale, d, sum[c]);
      } else {
        total[c] = _mm256_add_epi32(total[c], dot);
      }
    }
  }
  for (int c = 0; c < kChains; ++c) {
    touch(sum[c]);
    touch(total[c]);
  }
}

void floats(int rounds) {
  __m256 w = _mm256_set1_ps(0.5f), sum[kFloatChains];
  for (int c = 0; c < kFloatChains; ++c) sum[c] = _mm256_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
    touch(w);
#pragma GCC unroll 8
    for (int c = 0; c < kFloatChains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], w, w);
  }
  for (int c = 0; c < kFloatChains; ++c) touch(sum[c]);
}

}  // namespace

int peak(Peak peak, int rounds) {
  constexpr int kBlocks = kChains * 32 * 8;
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
  return kFloatChains * 8;
}

}  // namespace tutti::tensor::avx2
