#include "tensor/peak.h"

#include "tensor/levels.h"

namespace tutti::tensor {

namespace scalar {
int peak(Peak peak, int rounds);
}
namespace avx2 {
int peak(Peak peak, int rounds);
}
namespace avxvnni {
int peak(Peak peak, int rounds);
}
namespace avx512 {
int peak(Peak peak, int rounds);
}
namespace avx512bf16 {
int peak(int rounds);
}
namespace amx {
int peak(Peak peak, int rounds);  // of bytes
}

uint64_t run_peak(Isa isa, Peak peak, int rounds) {
  const Kernels& k = kernels(isa);  // throws when this machine cannot run it
  int round = 0;
  const bool floats = peak == Peak::kFloat || peak == Peak::kBf16;
  if (peak == Peak::kBf16) {
    if (k.matmul_bf16 == avx512bf16::matmul_bf16)
      return uint64_t(avx512bf16::peak(rounds)) * uint64_t(rounds);
    peak = Peak::kFloat;
  }
  if (floats && isa == Isa::kAmx) isa = Isa::kAvx512;  // tiles add products of bytes only
  switch (isa) {
    case Isa::kScalar:
      round = scalar::peak(peak, rounds);
      break;
    case Isa::kAvx2:
      round = avx2::peak(peak, rounds);
      break;
    case Isa::kAvxVnni:
      round = avxvnni::peak(peak, rounds);
      break;
    case Isa::kAvx512:
      round = avx512::peak(peak, rounds);
      break;
    case Isa::kAmx:
      round = amx::peak(peak, rounds);
      break;
  }
  return uint64_t(round) * uint64_t(rounds);
}

}  // namespace tutti::tensor
