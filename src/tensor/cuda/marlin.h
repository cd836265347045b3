// The MARLIN product on a GPU of compute capability 8.0 to 9.0. No header of torch or CUDA: the
// stream is a pointer.
#pragma once

#include "tensor/cuda/marlin_block.h"

namespace tutti::tensor::cuda {

enum class MarlinStatus : int {
  kOk = 0,
  kShape = 1,     // n, k or the group is no multiple of the tiles; nothing was started
  kNoKernel = 2,  // no instance for these sizes; nothing was started
  kDevice = 3,    // the driver refused the launch
};

// Starts C = A B on `stream` (a cudaStream_t). All pointers are device memory; `problem.blocks` is
// set here, to the number of multiprocessors. `sums` holds m x n floats, `locks` one zero int for
// each slice of at most 64 rows and 128 columns. Results depend on the shape and the number of
// multiprocessors only.
MarlinStatus marlin_matmul(MarlinProblem problem, void* stream);

}  // namespace tutti::tensor::cuda
