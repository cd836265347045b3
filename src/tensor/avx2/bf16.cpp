// Products of the class bf16-dot with AVX2 and FMA.
#include "tensor/avx2/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avx2 {
namespace {

constexpr int kRows = 4, kTiles = 1;

#include "tensor/flush_subnormals.inc"
#include "tensor/groups.inc"

}  // namespace

#include "tensor/bf16.inc"

}  // namespace tutti::tensor::avx2
