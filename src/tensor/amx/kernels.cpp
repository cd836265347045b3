// The table of the AMX level: AVX-512's but for the products of bytes.
#include "tensor/levels.h"

namespace tutti::tensor::amx {

Kernels make_kernels(const Kernels& base) {
  Kernels k = base;
  k.isa = Isa::kAmx;
  k.matmul_quantised = matmul_quantised;
  k.matmul_w8a8 = matmul_w8a8;
  return k;
}

}  // namespace tutti::tensor::amx
