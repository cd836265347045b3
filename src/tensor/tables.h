// For tests: every table of kernels that can run here, the levels of this machine and what only
// stands in for others.
#pragma once

#include <string>
#include <vector>

#include "tensor/kernels.h"

namespace tutti::tensor {

struct Table {
  std::string name;
  Kernels kernels;
};

// The levels of available_isas(), and
//   emulated amx: the text of the AMX level over tiles in plain C++, beside scalar kernels;
//   evex vnni (with AVX-512): the text of the AVX-VNNI level in AVX-512's encoding;
//   fma bf16 (with AVX-512): AVX-512 as it is without VDPBF16PS.
const std::vector<Table>& tables();

}  // namespace tutti::tensor
