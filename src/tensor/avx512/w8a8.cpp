// Products of the class w8a8-row with AVX-512 VNNI.
#include "tensor/avx512/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx512 {
namespace {

constexpr int kRows = 8, kTiles = 2;
constexpr bool kUnsigned = true;

using Weights = Ints;
inline Weights prepared(Ints stored) { return stored; }
inline Ints accumulate(Ints sum, Weights w, uint32_t four) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(int(four)))};
}

#include "tensor/groups.inc"

}  // namespace

#include "tensor/w8a8.inc"

}  // namespace tutti::tensor::avx512
