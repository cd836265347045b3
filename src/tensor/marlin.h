// Grids of 4-bit weights in the words of MARLIN and Sparse-MARLIN checkpoints, and back
// (marlin_layout.h).
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/grid.h"

namespace tutti::tensor {

// A layer as its checkpoint holds it. `in` and `out` are those of the words: padded.
struct MarlinLayer {
  int in = 0, out = 0;
  int group = -1;                 // inputs that share a scale, a divisor of in; -1: all of them
  std::vector<uint32_t> words;    // "B" [in / 16][2 * out]; sparse "B_24" [in / 32][2 * out]
  std::vector<float> scales;      // "s" [in / group or 1][out], permuted
  std::vector<uint16_t> indices;  // sparse "B_meta", [in / 32][2 * out]; empty: a dense layer
};

// Pads with zero weights to multiples of 128 inputs (of the group too, where it is larger) and 256
// outputs; scales of padding are 0. A grid with one group for all inputs gives group -1. Throws
// Error(kUsage) for what the layout cannot say: bits other than 4, zero points, an order of
// activations.
MarlinLayer pack_marlin(const Grid& grid);
// The same of a 2:4 sparse matrix: the two kept of four consecutive inputs are those whose code is
// not that of zero, never the largest codes, which would drop negative weights. Throws
// Error(kUsage) naming the first four that hold more than two non-zeros.
MarlinLayer pack_sparse_marlin(const Grid& grid);

// The padded matrix again. Throws Error(kBadFile) when the sizes do not fit or an index pair is
// none.
Grid unpack_marlin(const MarlinLayer& layer);

}  // namespace tutti::tensor
