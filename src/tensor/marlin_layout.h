// Where MARLIN and Sparse-MARLIN keep each weight, scale and index: the arithmetic alone, so that
// the packer here, the CUDA kernel and its emulation share it. Source: Frantar et al., "MARLIN"
// (arXiv 2408.11743); closed forms of the permutations in IST-DASLab/marlin and Sparse-Marlin.
//
// Weights stand in tiles of 16 x 16; four tiles side by side (64 outputs) are a chunk of 128 words
// of eight codes. Thread i of a warp reads words 4i .. 4i + 3 of a chunk at once, word j for the
// chunk's tile j, and finds the operands of mma.m16n8k16 in it: nibbles p and p + 4 are inputs r
// and r + 1.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TUTTI_HOST_DEVICE __host__ __device__
#define TUTTI_DEVICE __device__
#else
#define TUTTI_HOST_DEVICE
#define TUTTI_DEVICE
#endif

namespace tutti::tensor {

inline constexpr int kMarlinTile = 16;   // inputs and outputs of a tile
inline constexpr int kMarlinChunk = 64;  // outputs of a chunk of 128 words
// Both dimensions of a checkpoint's layer are multiples of these; others are padded with zero
// weights.
inline constexpr int kMarlinInputs = 128, kMarlinOutputs = 256;

// A nibble in the matrix of words [in / 16][2 * out].
struct MarlinPlace {
  int row, word, nibble;
};

// Of weight (input k, output n).
TUTTI_HOST_DEVICE constexpr MarlinPlace marlin_place(int k, int n) {
  const int r = k % 16, c = n % 16;
  const int thread = c % 8 * 4 + r % 8 / 2;
  return {k / 16, n / kMarlinChunk * 128 + 4 * thread + n % kMarlinChunk / 16,
          r % 2 * 4 + c / 8 * 2 + r / 8};
}

// Of compressed weight (k, n) of a 2:4 sparse matrix, k < in / 2, in the matrix of words [in /
// 32][2 * out].
TUTTI_HOST_DEVICE constexpr MarlinPlace sparse_marlin_place(int k, int n) {
  const int r = k % 16, c = n % kMarlinChunk;
  const int thread = c / 8 * 4 + r % 8 / 2;
  return {k / 16, n / kMarlinChunk * 128 + 4 * thread + c % 4, r % 2 * 4 + c % 8 / 4 * 2 + r / 8};
}

// The output whose scale stands at place n of a row of scales: per group, ...
TUTTI_HOST_DEVICE constexpr int marlin_group_scale(int n) {
  return n / 64 * 64 + n % 64 / 8 + 8 * (n % 8);
}
// ... per output (one scale for all inputs), ...
TUTTI_HOST_DEVICE constexpr int marlin_column_scale(int n) {
  const int i = n % 32 / 8, j = n % 8;
  return n / 32 * 32 + 2 * i + j % 2 + 8 * (j / 2);
}
// ... and per group of a sparse matrix (its scales per output stand in their own order).
TUTTI_HOST_DEVICE constexpr int sparse_marlin_group_scale(int n) {
  return n / 8 * 8 + n % 8 / 2 + 4 * (n % 2);
}

// Where the 16-bit index word of output n and inputs 16 q .. 16 q + 15 stands among those of a
// matrix with `out` outputs; they are in the order of the operands of mma.sp.
TUTTI_HOST_DEVICE constexpr int64_t sparse_marlin_index(int n, int q, int out) {
  int row = n / 64 * 64 + 2 * (n % 2) + n % 8 / 4 + 32 * (n % 4 / 2) + 4 * (n % 64 / 8);
  int column = q;
  if (row % 2 == 0 && column % 2 == 1) {
    row += 1;
    column -= 1;
  } else if (row % 2 == 1 && column % 2 == 0) {
    row -= 1;
    column += 1;
  }
  return int64_t(column / 2) * 2 * out + 2 * row + column % 2;
}

}  // namespace tutti::tensor
