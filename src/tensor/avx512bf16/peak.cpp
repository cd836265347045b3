// A register loop for the compute roof (peak.h) of VDPBF16PS.
#include "tensor/peak.h"

#include <immintrin.h>

namespace tutti::tensor::avx512bf16 {

int peak(int rounds) {
  constexpr int kChains = 16;
  __m512i w = _mm512_set1_epi32(0x3f003f00);
  __m512 sum[kChains];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
    __asm__ volatile("" : "+v"(w));  // the compiler cannot know what is in it
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], __m512bh(w), __m512bh(w));
  }
  for (__m512& s : sum) __asm__ volatile("" : "+v"(s));
  return kChains * 32;
}

}  // namespace tutti::tensor::avx512bf16
