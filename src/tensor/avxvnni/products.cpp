// The products of quantised weights with AVX-VNNI, the VEX encoding of VPDPBUSD.
#include <immintrin.h>

#include <cstring>

#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::avxvnni {
namespace {

inline __m256i dpbusd(__m256i sum, __m256i w, __m256i x) {
  return _mm256_dpbusd_avx_epi32(sum, w, x);
}

#include "tensor/avx2/unpack.inc"
#include "tensor/avxvnni/dots.inc"

}  // namespace

#include "tensor/avx2/products.inc"

}  // namespace tutti::tensor::avxvnni
