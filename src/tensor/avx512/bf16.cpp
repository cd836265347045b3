// Products of the class bf16-dot with AVX-512 that has no VDPBF16PS.
#include "tensor/avx512/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx512 {
namespace {

constexpr int kRows = 8, kTiles = 2;

#include "tensor/flush_subnormals.inc"
#include "tensor/groups.inc"

}  // namespace

#include "tensor/bf16.inc"

}  // namespace tutti::tensor::avx512
