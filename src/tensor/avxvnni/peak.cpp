// Register loops for the compute roof (peak.h) with VPDPBUSD of 256 bits.
#include "tensor/peak.h"

#include <immintrin.h>

namespace tutti::tensor::avxvnni {
namespace {

#include "tensor/avx2/peak_lanes.inc"

inline Ints dot_32(Ints sum, Ints w, Ints a) {
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) sum = _mm256_dpbusd_avx_epi32(sum, w, a);
  return sum;
}

#include "tensor/peak.inc"

}  // namespace

int peak(Peak peak, int rounds) { return vector_peak(peak, rounds); }

}  // namespace tutti::tensor::avxvnni
