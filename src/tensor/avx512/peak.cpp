// Register loops for the compute roof (peak.h) with AVX-512 and VNNI.
#include <immintrin.h>

#include "tensor/peak.h"

namespace tutti::tensor::avx512 {
namespace {

using Ints = __m512i;
using Floats = __m512;
constexpr int kLanes = 16;
constexpr int kChains = 12;
constexpr int kFloatChains = 12;

template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+v"(x));
}

inline Ints no_ints() { return _mm512_setzero_si512(); }
inline Floats no_floats() { return _mm512_setzero_ps(); }
inline Ints ints(int x) { return _mm512_set1_epi32(x); }
inline Floats floats(float x) { return _mm512_set1_ps(x); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }

inline Ints dot_32(Ints sum, Ints w, Ints a) {
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) sum = _mm512_dpbusd_epi32(sum, w, a);
  return sum;
}

#include "tensor/peak.inc"

}  // namespace

int peak(Peak peak, int rounds) { return vector_peak(peak, rounds); }

}  // namespace tutti::tensor::avx512
