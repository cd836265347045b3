// Register loops for the compute roof (peak.h): bytes are those of 4-bit weights, whose products
// add up in 16 bits.
#include <immintrin.h>

#include "tensor/peak.h"

namespace tutti::tensor::avx2 {
namespace {

#include "tensor/avx2/peak_lanes.inc"

inline Ints dot_32(Ints sum, Ints w, Ints a) {
  Ints pairs = _mm256_maddubs_epi16(w, a);
#pragma GCC unroll 8
  for (int g = 1; g < 8; ++g) {
    touch(w);
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, a));
  }
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "tensor/peak.inc"

}  // namespace

int peak(Peak peak, int rounds) { return vector_peak(peak, rounds); }

}  // namespace tutti::tensor::avx2
