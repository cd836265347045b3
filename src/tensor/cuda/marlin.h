// The MARLIN product on a GPU of compute capability 8.0 to 9.0. No header of torch or CUDA: the
// stream is a pointer.
#pragma once

#include "tensor/cuda/marlin_block.h"

namespace tutti::tensor::cuda {

enum class MarlinStatus : int {
  kOk = 0,
  kShape = 1,     // n, k or the group is no multiple of the tiles; nothing was started
  kNoKernel = 2,  // no instance for these sizes or options; nothing was started
  kDevice = 3,    // the driver refused the launch
};

// The tile of B that a block multiplies at a time, (inputs, outputs).
enum class MarlinTile : int {
  kAuto = 0,
  kWide = 1,    // (64, 256)
  kNarrow = 2,  // (128, 128), for at most 16 rows
};

// What a launch may choose; 0 is the choice of marlin_matmul. Numbers of blocks and tiles change
// the order of the sums, and so the last bits of a result.
struct MarlinOptions {
  MarlinTile tile = MarlinTile::kAuto;
  int blocks_per_multiprocessor = 0;
  int stages = 0;  // tiles in shared memory: 4, or 8 where it has the room
  MarlinSums adder = MarlinSums::kAuto;
};

// Device memory that a product needs besides its operands.
struct MarlinWorkspace {
  int64_t sums = 0;   // floats, of any value; aligned to 16 bytes
  int64_t locks = 0;  // ints, zero before the first product; zero again after each
};

// On the current device. Statuses as of marlin_matmul.
MarlinStatus marlin_workspace(const MarlinProblem& problem, const MarlinOptions& options,
                              MarlinWorkspace& workspace);

// Starts C = A B on `stream` (a cudaStream_t). All pointers are device memory aligned to 16 bytes;
// `problem.blocks` and `adder` are set here. Products that may run at the same time need a
// workspace each. Results depend on the shape, the options and the number of multiprocessors only.
MarlinStatus marlin_matmul(MarlinProblem problem, void* stream, const MarlinOptions& options = {});

}  // namespace tutti::tensor::cuda
