// A vehicle for tests: the text of the AVX-VNNI level with VPDPBUSD as AVX-512 VNNI encodes it for
// 256 bits, for machines that have this and not that. No assertions here: tables_test.cpp puts
// these kernels beside the others.
#include <immintrin.h>

#include <cstring>

#include "tensor/avx2/lanes.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::evex_vnni {

QuantisedProduct matmul_quantised, matmul_w8a8;

namespace {

inline __m256i dpbusd(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_epi32(sum, w, x); }

#include "tensor/avx2/unpack.inc"
#include "tensor/avxvnni/dots.inc"

}  // namespace

#include "tensor/avx2/products.inc"

namespace w8a8 {
namespace {

#include "tensor/avxvnni/w8a8_step.inc"
#include "tensor/groups.inc"

}  // namespace

#include "tensor/w8a8.inc"

}  // namespace w8a8

void matmul_w8a8(const Matrix& w, const QuantisedRows& x, int rows, int tile_first, int tile_last,
                 float* y, size_t y_stride) {
  w8a8::matmul_w8a8(w, x, rows, tile_first, tile_last, y, y_stride);
}

}  // namespace tutti::tensor::evex_vnni
