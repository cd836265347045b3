// Products of the class w8a8-row with AVX2. maddubs adds two products in 16 bits with saturation:
// magnitudes of weights and signed activations within +-127 make 2 * 127 * 127 at most, which fits.
#include "tensor/avx2/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx2 {
namespace {

constexpr int kRows = 4, kTiles = 1;
constexpr bool kUnsigned = false;

struct Weights {
  Ints value, magnitude;
};
inline Weights prepared(Ints stored) {
  const Ints value = stored ^ splat_int(0x80808080u);
  return {value, {_mm256_abs_epi8(value.a), _mm256_abs_epi8(value.b)}};
}
inline __m256i dots(__m256i magnitude, __m256i value, __m256i four) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four, value));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
inline Ints accumulate(Ints sum, const Weights& w, uint32_t four) {
  const __m256i x = _mm256_set1_epi32(int(four));
  return sum + Ints{dots(w.magnitude.a, w.value.a, x), dots(w.magnitude.b, w.value.b, x)};
}

#include "tensor/groups.inc"

}  // namespace

#include "tensor/w8a8.inc"

}  // namespace tutti::tensor::avx2
