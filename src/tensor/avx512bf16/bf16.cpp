// Products of the class bf16-dot with VDPBF16PS.
#include "tensor/avx512/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx512bf16 {
namespace {

constexpr int kRows = 8, kTiles = 2;

// The instruction does as documented whatever MXCSR says.
struct AsDocumented {
  AsDocumented() {}  // NOLINT: an empty one, not an unused variable
};

inline Lanes dot_pair(Lanes sum, Ints w, uint32_t x) {
  return {_mm512_dpbf16_ps(sum.v, __m512bh(w.v), __m512bh(_mm512_set1_epi32(int(x))))};
}

#include "tensor/groups.inc"

}  // namespace

#include "tensor/bf16.inc"

}  // namespace tutti::tensor::avx512bf16
