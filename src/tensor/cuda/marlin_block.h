// The MARLIN product C = A B as one block of 256 threads computes it: A [m][k] halves, B four-bit
// words with half scales (marlin_layout.h), C [m][n] halves, sums in fp32. Source: arXiv
// 2408.11743, IST-DASLab/marlin; written anew.
//
// The text is written over a Warp, the 32 lanes that compute together: on a GPU each lane runs it
// and a Warp's Int is an int (marlin.cu); on a CPU one thread runs it for all 32 and Int is 32 ints
// (emulated_warp.h). So every index, the swizzle, the places in shared memory, the partition of the
// work are the same text in both, and tests run them.
//
// Differences from the paper's kernel, each simpler and none in the files' layout: sums of blocks
// that share a column slice go through an fp32 buffer, not through the fp16 output; scales come
// with every tile; a stripe that ends one column slice and starts the next drains its pipeline
// between them; groups of 32 and 64 besides 128 and -1.
#pragma once

#include <cstdint>

#include "tensor/marlin_layout.h"

namespace tutti::tensor::cuda {

struct MarlinProblem {
  const void* a = nullptr;       // f16 [m][k]
  const void* words = nullptr;   // u32 [k / 16][2 n]
  const void* scales = nullptr;  // f16 [k / group or 1][n], permuted
  void* c = nullptr;             // f16 [m][n]
  float* sums = nullptr;         // [m][n], where column slices are split between blocks
  int* locks = nullptr;          // one per slice, zero; zero again afterwards
  int m = 0, n = 0, k = 0;
  int group = -1;  // inputs of a scale: 32, 64 or a multiple of 128, a divisor of k; -1: one scale
                   // per output
  int blocks = 1;
};

// Rows of A in blocks of 16 (at most four), and the tile of B that a block multiplies at a time.
template <int kRowBlocks_, int kTileK_, int kTileN_>
struct MarlinShape {
  static constexpr int kRowBlocks = kRowBlocks_, kTileK = kTileK_, kTileN = kTileN_;
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kThreads = 256, kWarps = 8, kStages = 4;
  // A warp has 64 columns, and its part of the tile's inputs.
  static constexpr int kWarpsN = kTileN / kMarlinChunk, kWarpsK = kWarps / kWarpsN;
  static constexpr int kSteps = kTileK / 16 / kWarpsK;
  // Shared memory in pieces of 16 bytes.
  static constexpr int kARow = kTileK / 8, kBRow = kTileN / 2, kScaleRow = kTileN / 8;
  static constexpr int kA = kRows * kARow, kB = kTileK / 16 * kBRow,
                       kScales = kTileK / 32 * kScaleRow;
  static constexpr int kStage = kA + kB + kScales;
  static constexpr int kPipeline = kStages * kStage;
  // Half of the warps hand their sums over: eight floats per lane for each row block and tile.
  static constexpr int kReduction = kWarps / 2 * kRowBlocks * 4 * 8 * 32 / 4;
  static constexpr int kShared = (kPipeline > kReduction ? kPipeline : kReduction) * 16;  // bytes
  static_assert(kSteps >= 1 && kWarpsK * kWarpsN == kWarps);
};

// How the (k tile, column slice) pairs fall to blocks: in column-major order, in equal stripes. A
// slice is kTileN columns of kRows rows.
struct MarlinPartition {
  int k_tiles, slices, per_block;
  TUTTI_HOST_DEVICE MarlinPartition(int k_tiles_, int slices_, int blocks)
      : k_tiles(k_tiles_), slices(slices_), per_block((k_tiles_ * slices_ + blocks - 1) / blocks) {}
  // Blocks that share a slice add up from the bottom, the one with the last inputs, to the top.
  TUTTI_HOST_DEVICE int first_block(int slice) const { return slice * k_tiles / per_block; }
  TUTTI_HOST_DEVICE int last_block(int slice) const {
    return ((slice + 1) * k_tiles - 1) / per_block;
  }
  // The block of a pair.
  TUTTI_HOST_DEVICE int block_of(int k_tile, int slice) const {
    return (slice * k_tiles + k_tile) / per_block;
  }
};

// Where sixteen bytes of A stand, of rows of `pieces` times sixteen: those that ldmatrix reads
// together, and those that neighbouring threads write, lie in different banks.
template <class Int>
TUTTI_HOST_DEVICE Int marlin_swizzled(Int row, Int column, int pieces) {
  return row * pieces + (column ^ (row % 8));
}

template <class Shape, class Warp>
class MarlinBlock {
  using Int = typename Warp::Int;
  using Word = typename Warp::Word;
  using Wide = typename Warp::Wide;
  using Real = typename Warp::Real;
  using Flag = typename Warp::Flag;

 public:
  TUTTI_DEVICE MarlinBlock(Warp& warp, const MarlinProblem& problem, int block)
      : w_(warp),
        p_(problem),
        block_(block),
        warp_n_(warp.index() % Shape::kWarpsN),
        warp_k_(warp.index() / Shape::kWarpsN) {}

  TUTTI_DEVICE void run() {
    const int columns = p_.n / Shape::kTileN, rows = (p_.m + Shape::kRows - 1) / Shape::kRows;
    const MarlinPartition part(p_.k / Shape::kTileK, columns * rows, p_.blocks);
    const int tiles = part.k_tiles * part.slices;
    int at = block_ * part.per_block;
    const int end = at + part.per_block < tiles ? at + part.per_block : tiles;
    while (at < end) {
      const int slice = at / part.k_tiles, first = at % part.k_tiles;
      const int last = first + end - at < part.k_tiles ? first + end - at : part.k_tiles;
      row0_ = slice / columns * Shape::kRows;
      column0_ = slice % columns * Shape::kTileN;
      multiply_tiles(first, last);
      reduce_warps();
      finish(slice, part.last_block(slice) - block_,
             part.last_block(slice) - part.first_block(slice) + 1);
      at += last - first;
    }
  }

 private:
  TUTTI_DEVICE void multiply_tiles(int first, int last) {
    for (int i = 0; i < Shape::kRowBlocks; ++i) {
      for (int j = 0; j < 4; ++j) {
        for (int h = 0; h < 2; ++h) {
          for (int e = 0; e < 4; ++e) sums_[i][j][h][e] = Real(0.0f);
        }
      }
    }
    for (int s = 0; s < Shape::kStages - 1; ++s) {
      if (first + s < last) fetch(first + s, s);
      w_.commit();
    }
    for (int tile = first; tile < last; ++tile) {
      const int step = tile - first;
      w_.template wait<Shape::kStages - 2>();  // this tile is there; the next two may be under way
      w_.sync();  // for all threads; and nobody reads the stage before it any more
      const int next = tile + Shape::kStages - 1;
      if (next < last) fetch(next, (step + Shape::kStages - 1) % Shape::kStages);
      w_.commit();
      multiply(step % Shape::kStages * Shape::kStage);
    }
    w_.template wait<0>();
    w_.sync();
  }

  // Tile `tile` of inputs to stage `stage`, sixteen bytes a thread at a time.
  TUTTI_DEVICE void fetch(int tile, int stage) {
    const int base = stage * Shape::kStage;
    for (int i = 0; i < Shape::kA; i += Shape::kThreads) {
      const Int piece = w_.thread() + i;
      const Int row = piece / Shape::kARow, column = piece % Shape::kARow;
      const Wide from = Wide(row + row0_) * (p_.k / 8) + Wide(column + tile * Shape::kARow);
      const Flag inside = piece < Int(Shape::kA);
      // Rows beyond m are zeros.
      w_.copy(base + swizzled(row, column), p_.a, from, inside, inside && row + row0_ < Int(p_.m));
    }
    for (int i = 0; i < Shape::kB; i += Shape::kThreads) {
      const Int piece = w_.thread() + i;
      const Int row = piece / Shape::kBRow, column = piece % Shape::kBRow;
      const Wide from =
          Wide(row + tile * (Shape::kTileK / 16)) * (p_.n / 2) + Wide(column + column0_ / 2);
      w_.copy_once(base + Shape::kA + piece, p_.words, from, piece < Int(Shape::kB));
    }
    if (p_.group == -1) return;
    const int rows = scale_rows();
    const Int piece = w_.thread();
    const Int row = piece / Shape::kScaleRow, column = piece % Shape::kScaleRow;
    const Wide from =
        Wide(row + tile * Shape::kTileK / p_.group) * (p_.n / 8) + Wide(column + column0_ / 8);
    const Flag inside = piece < Int(rows * Shape::kScaleRow);
    w_.copy(base + Shape::kA + Shape::kB + piece, p_.scales, from, inside, inside);
  }

  // Groups that a tile touches.
  TUTTI_DEVICE int scale_rows() const {
    return p_.group < Shape::kTileK ? Shape::kTileK / p_.group : 1;
  }
  TUTTI_DEVICE static Int swizzled(Int row, Int column) {
    return marlin_swizzled(row, column, Shape::kARow);
  }

  // The stage's tile, this warp's part of it.
  TUTTI_DEVICE void multiply(int base) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int step = 0; step < Shape::kSteps; ++step) {
      const int k16 = warp_k_ * Shape::kSteps + step;
      Word a[Shape::kRowBlocks][4], b[4], scales[4];
      for (int i = 0; i < Shape::kRowBlocks; ++i) {
        const Int row = w_.lane() % 16 + 16 * i;
        w_.load_matrices(base + swizzled(row, w_.lane() / 16 + 2 * k16), a[i]);
      }
      w_.load(base + Shape::kA + k16 * Shape::kBRow + warp_n_ * 32 + w_.lane(), b);
      if (p_.group != -1) {
        const int row = p_.group < Shape::kTileK ? k16 * 16 / p_.group : 0;
        w_.load(base + Shape::kA + Shape::kB + row * Shape::kScaleRow + warp_n_ * 8 + w_.lane() / 4,
                scales);
      }
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
      for (int j = 0; j < 4; ++j) {
        for (int h = 0; h < 2; ++h) {
          Word low, high;
          dequantise(h == 0 ? b[j] : b[j] >> 8, low, high);
          if (p_.group != -1) {
            const Word scale = (h == 0 ? scales[j] & Word(0xffff) : scales[j] >> 16) * 0x10001u;
            low = w_.multiply_halfs(low, scale);
            high = w_.multiply_halfs(high, scale);
          }
          for (int i = 0; i < Shape::kRowBlocks; ++i)
            w_.multiply_add(sums_[i][j][h], a[i], low, high);
        }
      }
    }
  }

  // Nibbles 0 and 4 of q, and 1 and 5, as pairs of halves of value - 8: with exponent 0x64 a half
  // is 1024 + v in its low four bits, and 1024 + 16 v in the next four.
  TUTTI_DEVICE void dequantise(Word q, Word& low, Word& high) {
    low = w_.subtract_halfs((q & Word(0x000f000f)) | Word(0x64006400), Word(0x64086408));
    high =
        w_.fma_halfs((q & Word(0x00f000f0)) | Word(0x64006400), Word(0x2c002c00), Word(0xd480d480));
  }

  // Warps with the same columns add their sums, the upper half of them to the lower, until the
  // first has all.
  TUTTI_DEVICE void reduce_warps() {
    for (int d = Shape::kWarpsK / 2; d > 0; d /= 2) {
      if (warp_k_ >= d && warp_k_ < 2 * d) {
        hand_over((warp_k_ - d) * Shape::kWarpsN + warp_n_,
                  [&](Int place, Real& sum) { w_.store_real(place, sum); });
      }
      w_.sync();
      if (warp_k_ < d) {
        hand_over(warp_k_ * Shape::kWarpsN + warp_n_,
                  [&](Int place, Real& sum) { sum = sum + w_.load_real(place); });
      }
      w_.sync();
    }
  }
  template <class Visit>
  TUTTI_DEVICE void hand_over(int region, const Visit& visit) {
    int place = region * Shape::kRowBlocks * 32 * 32;
    for (int i = 0; i < Shape::kRowBlocks; ++i) {
      for (int j = 0; j < 4; ++j) {
        for (int h = 0; h < 2; ++h) {
          for (int e = 0; e < 4; ++e, place += 32) visit(w_.lane() + place, sums_[i][j][h][e]);
        }
      }
    }
  }

  // Adds what the blocks below in the slice have, and hands on or writes. `position` counts from
  // the bottom.
  TUTTI_DEVICE void finish(int slice, int position, int count) {
    if (count > 1) w_.acquire(p_.locks + slice, position);
    if (warp_k_ == 0) {
      if (position > 0) {
        each_pair([&](Wide place, Flag inside, int, int, Real& a, Real& b) {
          w_.add_sums(p_.sums, place, inside, a, b);
        });
      }
      if (position < count - 1) {
        each_pair([&](Wide place, Flag inside, int, int, Real& a, Real& b) {
          w_.store_sums(p_.sums, place, inside, a, b);
        });
      } else {
        write();
      }
    }
    if (count > 1) w_.release(p_.locks + slice, position == count - 1 ? 0 : position + 1);
  }

  TUTTI_DEVICE void write() {
    Word scales[2][4];  // of the warp's 64 columns, in the order per column: two for each eight of
                        // them
    if (p_.group == -1) {
      for (int g = 0; g < 2; ++g)
        w_.load_global(p_.scales,
                       Wide(w_.lane() % 4 + ((column0_ + warp_n_ * kMarlinChunk) / 8 + 4 * g)),
                       scales[g]);
    }
    each_pair([&](Wide place, Flag inside, int j, int h, Real& a, Real& b) {
      const int eight = 2 * j + h;
      if (p_.group == -1) {
        const Word two = scales[eight / 4][eight % 4];
        w_.store_pair(p_.c, place, inside, a * w_.low_half(two), b * w_.high_half(two));
      } else {
        w_.store_pair(p_.c, place, inside, a, b);
      }
    });
  }

  // Each lane's neighbouring pairs of sums: the place of the first in [m][n], and whether the row
  // exists.
  template <class Visit>
  TUTTI_DEVICE void each_pair(const Visit& visit) {
    for (int i = 0; i < Shape::kRowBlocks; ++i) {
      for (int j = 0; j < 4; ++j) {
        for (int h = 0; h < 2; ++h) {
          for (int lower = 0; lower < 2; ++lower) {
            const Int row = w_.lane() / 4 + (row0_ + 16 * i + 8 * lower);
            const Int column =
                w_.lane() % 4 * 2 + (column0_ + warp_n_ * kMarlinChunk + 16 * j + 8 * h);
            visit(Wide(row) * p_.n + Wide(column), row < Int(p_.m), j, h, sums_[i][j][h][2 * lower],
                  sums_[i][j][h][2 * lower + 1]);
          }
        }
      }
    }
  }

  Warp& w_;
  const MarlinProblem& p_;
  const int block_, warp_n_, warp_k_;
  int row0_ = 0, column0_ = 0;
  Real sums_[Shape::kRowBlocks][4][2]
            [4];  // [16 rows][16 columns][8 of them][elements of mma's result]
};

}  // namespace tutti::tensor::cuda
