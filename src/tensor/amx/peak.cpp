// Register loops for the compute roof (peak.h) with tiles: four products at once, and what a block
// of 32 asks for beside them.
#include "tensor/peak.h"

#include <immintrin.h>

#include "tensor/amx/tiles.h"

namespace tutti::tensor::amx {
namespace {

// The compiler cannot know what is in `x` afterwards.
template <class T>
inline void touch(T& x) {
  __asm__ volatile("" : "+v"(x));
}

// The scaling of one tile of sums: 16 rows of 16 outputs.
template <bool minimum>
inline void scale_tile(__m512 (&sum)[16], __m512i dot, __m512 d, __m512 m) {
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    __m512 scale = d;
    touch(scale);  // a product of its own for every row
    touch(dot);
    sum[r] = _mm512_fmadd_ps(_mm512_mul_ps(scale, d), _mm512_cvtepi32_ps(dot), sum[r]);
    if constexpr (minimum) sum[r] = _mm512_fmadd_ps(m, d, sum[r]);
  }
}

template <bool scales, bool minimum, int inputs>
void products(int rounds) {
  Tiles tiles;
  tiles.configure(16, 16, inputs);  // all tiles are zero
  __m512 d = _mm512_set1_ps(0.5f), m = d, sum[16];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int i = 0; i < rounds; ++i) {
    tiles.dot<0, 0>();
    tiles.dot<0, 1>();
    tiles.dot<1, 0>();
    tiles.dot<1, 1>();
    if constexpr (scales) {
      for (int t = 0; t < 4; ++t) scale_tile<minimum>(sum, _mm512_setzero_si512(), d, m);
    }
  }
  for (__m512& s : sum) touch(s);
}

}  // namespace

int peak(Peak peak, int rounds) {
  constexpr int kSums = 4 * 16 * 16;
  switch (peak) {
    case Peak::kExactQ8:
      products<true, false, 32>(rounds);
      return kSums * 32;
    case Peak::kExactQ8Min:
      products<true, true, 32>(rounds);
      return kSums * 32;
    default:
      products<false, false, 64>(rounds);
      return kSums * 64;
  }
}

}  // namespace tutti::tensor::amx
