#include "tensor/peak.h"

namespace tutti::tensor {

namespace scalar {
int peak(Peak peak, int rounds);
}
namespace avx2 {
int peak(Peak peak, int rounds);
}
namespace avx512 {
int peak(Peak peak, int rounds);
}

uint64_t run_peak(Isa isa, Peak peak, int rounds) {
  kernels(isa);  // throws when this machine cannot run it
  int round = 0;
  switch (isa) {
    case Isa::kScalar:
      round = scalar::peak(peak, rounds);
      break;
    case Isa::kAvx2:
      round = avx2::peak(peak, rounds);
      break;
    case Isa::kAvx512:
      round = avx512::peak(peak, rounds);
      break;
  }
  return uint64_t(round) * uint64_t(rounds);
}

}  // namespace tutti::tensor
