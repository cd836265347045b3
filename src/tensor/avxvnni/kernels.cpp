// The table of the AVX-VNNI level: AVX2's but for the products of bytes.
#include "tensor/levels.h"

namespace tutti::tensor::avxvnni {

Kernels make_kernels() {
  Kernels k = avx2::make_kernels();
  k.isa = Isa::kAvxVnni;
  k.matmul_quantised = matmul_quantised;
  k.matmul_w8a8 = matmul_w8a8;
  return k;
}

}  // namespace tutti::tensor::avxvnni
