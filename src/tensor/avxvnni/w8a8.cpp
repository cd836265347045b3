// Products of the class w8a8-row with AVX-VNNI.
#include "tensor/avx2/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avxvnni {
namespace {

inline __m256i dpbusd(__m256i sum, __m256i w, __m256i x) {
  return _mm256_dpbusd_avx_epi32(sum, w, x);
}

#include "tensor/avxvnni/w8a8_step.inc"
#include "tensor/groups.inc"

}  // namespace

#include "tensor/w8a8.inc"

}  // namespace tutti::tensor::avxvnni
