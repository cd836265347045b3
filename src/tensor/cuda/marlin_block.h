// The MARLIN product C = A B as one block of 256 threads computes it: A [m][k] halves, B four-bit
// words with half scales (marlin_layout.h), C [m][n] halves, sums in fp32. Source: arXiv
// 2408.11743, IST-DASLab/marlin; written anew.
//
// The text is written over a Warp, the 32 lanes that compute together: on a GPU each lane runs it
// and a Warp's Int is an int (marlin.cu); on a CPU one thread runs it for all 32 and Int is 32 ints
// (emulated_warp.h). So every index, the swizzle, the places in shared memory, the partition of the
// work are the same text in both, and tests run them.
//
// Differences from the paper's kernel, none in the files' layout: blocks that share a column slice
// leave their sums in fp32, which are added in a fixed order once all are there, by the last block
// to arrive or by each of them a part (the paper's blocks wait for each other in a chain, through
// the fp16 output); the pipeline runs on from one slice to the next; scales come with every tile;
// groups of 32 and 64 besides 128 and -1.
#pragma once

#include <cstdint>

#include "tensor/marlin_layout.h"

// Loops over accumulators must be unrolled: an array with an index unknown to the compiler lies in
// memory, not in registers.
#ifdef __CUDA_ARCH__
#define TUTTI_UNROLL _Pragma("unroll")
#else
#define TUTTI_UNROLL
#endif

namespace tutti::tensor::cuda {

// Who adds the sums of blocks that share a slice. Bits are the same.
enum class MarlinSums : int {
  kAuto = 0,
  kLast = 1,    // the last block to arrive, all of them: nobody waits
  kShared = 2,  // each block its part, when all have arrived: all blocks must run at the same time
};

struct MarlinProblem {
  const void* a = nullptr;       // f16 [m][k]
  const void* words = nullptr;   // u32 [k / 16][2 n]
  const void* scales = nullptr;  // f16 [k / group or 1][n], permuted
  void* c = nullptr;             // f16 [m][n]
  float* sums = nullptr;         // MarlinShape::kSlot x 4 floats for each block's two open slices
  int* locks = nullptr;          // one per slice, zero; zero again afterwards
  int m = 0, n = 0, k = 0;
  int group = -1;  // inputs of a scale: 32, 64 or a multiple of 128, a divisor of k; -1: one scale
                   // per output
  int blocks = 1;
  MarlinSums adder = MarlinSums::kLast;  // never kAuto here
};

// One group of all inputs is stored as scales of outputs are, as the published layers store it.
inline MarlinProblem as_stored(MarlinProblem problem) {
  if (problem.group == problem.k) problem.group = -1;
  return problem;
}

// Rows of A in blocks of 16 (at most four), the tile of B that a block multiplies at a time, and
// the tiles that shared memory holds.
template <int kRowBlocks_, int kTileK_, int kTileN_, int kStages_ = 4>
struct MarlinShape {
  static constexpr int kRowBlocks = kRowBlocks_, kTileK = kTileK_, kTileN = kTileN_;
  static constexpr int kRows = 16 * kRowBlocks;
  static constexpr int kThreads = 256, kWarps = 8, kStages = kStages_;
  // A warp has 64 columns, and its part of the tile's inputs.
  static constexpr int kWarpsN = kTileN / kMarlinChunk, kWarpsK = kWarps / kWarpsN;
  static constexpr int kSteps = kTileK / 16 / kWarpsK;
  // Shared memory in pieces of 16 bytes.
  static constexpr int kARow = kTileK / 8, kBRow = kTileN / 2, kScaleRow = kTileN / 8;
  static constexpr int kA = kRows * kARow, kB = kTileK / 16 * kBRow,
                       kScales = kTileK / 32 * kScaleRow;
  static constexpr int kStage = kA + kB + kScales;
  static constexpr int kPipeline = kStages * kStage;
  // Half of the warps hand 16 rows of their sums over: four floats per lane for each eight columns.
  static constexpr int kReduction = kWarps / 2 * 8 * 32;
  static constexpr int kShared = (kPipeline + kReduction) * 16;  // bytes
  // A slice's sums in global memory.
  static constexpr int kSlot = kRows * kTileN / 4;
  static_assert(kSteps == 2 && kWarpsK * kWarpsN == kWarps && kStages >= 2);
  // What a thread copies of A and B is the same place in rows a whole number of eights apart.
  static_assert(kThreads % (8 * kARow) == 0 && kThreads % kBRow == 0 && kB % kThreads == 0);
};

// How the (k tile, column slice) pairs fall to blocks: in column-major order, in equal stripes. A
// slice is kTileN columns of kRows rows.
struct MarlinPartition {
  int k_tiles, slices, per_block;
  TUTTI_HOST_DEVICE MarlinPartition(int k_tiles_, int slices_, int blocks)
      : k_tiles(k_tiles_), slices(slices_), per_block((k_tiles_ * slices_ + blocks - 1) / blocks) {}
  // Blocks that share a slice.
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

// kGrouped: whether a scale is of a group of inputs, not of all of them.
template <class Shape, class Warp, bool kGrouped>
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
        row_problems_((problem.m + Shape::kRows - 1) / Shape::kRows),
        part_(problem.k / Shape::kTileK, problem.n / Shape::kTileN * row_problems_, problem.blocks),
        block_(block),
        warp_n_(warp.index() % Shape::kWarpsN),
        warp_k_(warp.index() / Shape::kWarpsN) {}

  // Multiplies the block's stripe and writes what it has alone, or is the last to have.
  TUTTI_DEVICE void run() {
    const Stripe stripe = own_stripe();
    if (stripe.begin >= stripe.end) return;
    fetch_at_ = stripe.begin;
    fetch_end_ = stripe.end;
    open_slice();
    for (int s = 0; s < Shape::kStages - 1; ++s) fetch_next();
    await_tile();
    load_fragments(0, fragments_[0]);
    for (int at = stripe.begin; at < stripe.end;) {
      const int slice = at / part_.k_tiles, next = (slice + 1) * part_.k_tiles;
      clear_sums();
      for (; at < stripe.end && at < next; ++at) multiply_tile();
      reduce_warps();
      finish(slice);
    }
  }

  // With MarlinSums::kShared, after run(): waits for the blocks that share a slice and writes this
  // block's part of it.
  TUTTI_DEVICE void settle() {
    const Stripe stripe = own_stripe();
    if (stripe.begin >= stripe.end) return;
    const int begins = stripe.begin / part_.k_tiles, ends = (stripe.end - 1) / part_.k_tiles;
    settle_slice(begins);
    if (ends != begins) settle_slice(ends);
  }

 private:
  struct Fragments {
    Word a[Shape::kRowBlocks][4], b[4], scales[4];
  };
  struct Stripe {
    int begin, end;
  };
  TUTTI_DEVICE Stripe own_stripe() const {
    const int tiles = part_.k_tiles * part_.slices, begin = block_ * part_.per_block;
    return {begin, begin + part_.per_block < tiles ? begin + part_.per_block : tiles};
  }
  // The rows and columns of C that a slice is. Slices of the same columns are neighbours, so that
  // weights that several of them read are in the L2 cache still.
  struct Corner {
    int row, column;
  };
  TUTTI_DEVICE Corner corner(int slice) const {
    return {slice % row_problems_ * Shape::kRows, slice / row_problems_ * Shape::kTileN};
  }

  // --- copies from global memory, tile after tile of the stripe ---

  // Sets where the copies of tile `fetch_at_` start.
  TUTTI_DEVICE void open_slice() {
    const int slice = fetch_at_ / part_.k_tiles, tile = fetch_at_ % part_.k_tiles;
    const Corner at = corner(slice);
    fetch_left_ = part_.k_tiles - tile;
    fetch_rows_ = p_.m - at.row < Shape::kRows ? p_.m - at.row : Shape::kRows;
    const Int thread = w_.thread();
    a_from_ = (thread / Shape::kARow + at.row) * (p_.k / 8) +
              (thread % Shape::kARow + tile * Shape::kARow);
    b_from_ = (thread / Shape::kBRow + tile * (Shape::kTileK / 16)) * (p_.n / 2) +
              (thread % Shape::kBRow + at.column / 2);
    if (!kGrouped) return;
    const bool small = p_.group < Shape::kTileK;
    scale_rows_ = small ? Shape::kTileK / p_.group : 1;  // groups that a tile touches
    scale_tiles_ = small ? 1 : p_.group / Shape::kTileK;
    scale_left_ = scale_tiles_ - tile % scale_tiles_;
    scale_from_ = (thread / Shape::kScaleRow + tile / scale_tiles_ * scale_rows_) * (p_.n / 8) +
                  (thread % Shape::kScaleRow + at.column / 8);
  }

  // Starts the copy of the stripe's next tile to the next stage, sixteen bytes a thread at a time;
  // past the stripe's end of nothing.
  TUTTI_DEVICE void fetch_next() {
    if (fetch_at_ < fetch_end_) {
      fetch_tile();
      fetch_stage_ = after(fetch_stage_);
      if (++fetch_at_ < fetch_end_) step_tile();
    }
    w_.commit();
  }
  TUTTI_DEVICE void fetch_tile() {
    const Int thread = w_.thread();
    const Int row = thread / Shape::kARow;
    const Int a_to = fetch_stage_ + marlin_swizzled(row, thread % Shape::kARow, Shape::kARow);
    constexpr int kRowsAtOnce = Shape::kThreads / Shape::kARow;
    TUTTI_UNROLL
    for (int i = 0; i * Shape::kThreads < Shape::kA; ++i) {
      // Rows beyond m stay what they were: they are multiplied into rows that nobody writes.
      w_.copy(a_to + i * Shape::kThreads, p_.a, a_from_ + i * kRowsAtOnce * (p_.k / 8),
              row + i * kRowsAtOnce < Int(fetch_rows_));
    }
    TUTTI_UNROLL
    for (int i = 0; i * Shape::kThreads < Shape::kB; ++i) {
      constexpr int kRowsOfB = Shape::kThreads / Shape::kBRow;
      w_.copy_once(thread + (fetch_stage_ + Shape::kA + i * Shape::kThreads), p_.words,
                   b_from_ + i * kRowsOfB * (p_.n / 2));
    }
    if (kGrouped) {
      w_.copy(thread + (fetch_stage_ + Shape::kA + Shape::kB), p_.scales, scale_from_,
              thread < Int(scale_rows_ * Shape::kScaleRow));
    }
  }
  TUTTI_DEVICE void step_tile() {
    if (--fetch_left_ == 0) {
      open_slice();
      return;
    }
    a_from_ = a_from_ + Shape::kARow;
    b_from_ = b_from_ + Shape::kTileK / 16 * (p_.n / 2);
    if (kGrouped && --scale_left_ == 0) {
      scale_left_ = scale_tiles_;
      scale_from_ = scale_from_ + scale_rows_ * (p_.n / 8);
    }
  }
  TUTTI_DEVICE static int after(int stage) {
    return stage + Shape::kStage == Shape::kPipeline ? 0 : stage + Shape::kStage;
  }
  // The oldest tile under way is there, for all threads; and nobody reads the one before it any
  // more.
  TUTTI_DEVICE void await_tile() {
    w_.template wait<Shape::kStages - 2>();
    w_.sync();
  }

  // --- products ---

  TUTTI_DEVICE void clear_sums() {
    TUTTI_UNROLL
    for (int i = 0; i < Shape::kRowBlocks; ++i) {
      TUTTI_UNROLL
      for (int eight = 0; eight < 8; ++eight) {
        TUTTI_UNROLL
        for (int e = 0; e < 4; ++e) sums_[i][eight][e] = Real(0.0f);
      }
    }
  }

  // Registers are loaded one step ahead, the next tile's first step before this tile's last is
  // multiplied.
  TUTTI_DEVICE void multiply_tile() {
    load_fragments(1, fragments_[1]);
    fetch_next();
    await_tile();
    multiply(fragments_[0]);
    stage_ = after(stage_);
    load_fragments(0, fragments_[0]);
    multiply(fragments_[1]);
  }

  // This warp's operands of a step of the tile in `stage_`.
  TUTTI_DEVICE void load_fragments(int step, Fragments& to) {
    const int k16 = warp_k_ * Shape::kSteps + step;
    const Int row = w_.lane() % 16;
    const Int a_from = stage_ + marlin_swizzled(row, w_.lane() / 16 + 2 * k16, Shape::kARow);
    TUTTI_UNROLL
    for (int i = 0; i < Shape::kRowBlocks; ++i)
      w_.load_matrices(a_from + 16 * i * Shape::kARow, to.a[i]);
    w_.load(w_.lane() + (stage_ + Shape::kA + k16 * Shape::kBRow + warp_n_ * 32), to.b);
    if (!kGrouped) return;
    const int row_of_scales = p_.group == 32 ? k16 / 2 : p_.group < Shape::kTileK ? k16 / 4 : 0;
    w_.load(w_.lane() / 4 +
                (stage_ + Shape::kA + Shape::kB + row_of_scales * Shape::kScaleRow + warp_n_ * 8),
            to.scales);
  }

  TUTTI_DEVICE void multiply(const Fragments& f) {
    TUTTI_UNROLL
    for (int eight = 0; eight < 8; ++eight) {
      const int j = eight / 2, h = eight % 2;
      Word low, high;
      dequantise(h == 0 ? f.b[j] : f.b[j] >> 8, low, high);
      if (kGrouped) {
        const Word scale = w_.twice(f.scales[j], h);
        low = w_.multiply_halfs(low, scale);
        high = w_.multiply_halfs(high, scale);
      }
      TUTTI_UNROLL
      for (int i = 0; i < Shape::kRowBlocks; ++i)
        w_.multiply_add(sums_[i][eight], f.a[i], low, high);
    }
  }

  // Nibbles 0 and 4 of q, and 1 and 5, as pairs of halves of value - 8: with exponent 0x64 a half
  // is 1024 + v in its low four bits, and 1024 + 16 v in the next four.
  TUTTI_DEVICE void dequantise(Word q, Word& low, Word& high) {
    const Word exponent(0x64006400);
    low = w_.subtract_halfs(w_.masked(q, Word(0x000f000f), exponent), Word(0x64086408));
    high =
        w_.fma_halfs(w_.masked(q, Word(0x00f000f0), exponent), Word(0x2c002c00), Word(0xd480d480));
  }

  // --- sums ---

  // Warps with the same columns add their sums, the upper half of them to the lower, until the
  // first has all. They meet beside the pipeline, which runs on.
  TUTTI_DEVICE void reduce_warps() {
    TUTTI_UNROLL
    for (int d = Shape::kWarpsK / 2; d > 0; d /= 2) {
      TUTTI_UNROLL
      for (int i = 0; i < Shape::kRowBlocks; ++i) {
        const int region = (warp_k_ % d * Shape::kWarpsN + warp_n_) * 8 * 32 + Shape::kPipeline;
        if (warp_k_ >= d && warp_k_ < 2 * d) {
          TUTTI_UNROLL
          for (int eight = 0; eight < 8; ++eight)
            w_.store_reals(w_.lane() + (region + 32 * eight), sums_[i][eight]);
        }
        w_.sync();
        if (warp_k_ < d) {
          TUTTI_UNROLL
          for (int eight = 0; eight < 8; ++eight)
            w_.add_reals(w_.lane() + (region + 32 * eight), sums_[i][eight]);
        }
        w_.sync();
      }
    }
  }

  // Writes the slice, or leaves this block's sums of it.
  TUTTI_DEVICE void finish(int slice) {
    const int first = part_.first_block(slice), last = part_.last_block(slice);
    if (first == last) {
      if (warp_k_ == 0) {
        each_sum([&](int i, int eight) { write(slice, warp_n_, i, eight, sums_[i][eight]); });
      }
      return;
    }
    if (warp_k_ == 0) {
      each_sum([&](int i, int eight) {
        w_.store_sums(p_.sums, slot(block_, first, warp_n_, i, eight), exists(slice, i),
                      sums_[i][eight]);
      });
    }
    const bool is_last = w_.arrives(p_.locks + slice) == last - first;
    if (p_.adder == MarlinSums::kShared || !is_last) return;
    add_blocks(slice, first, last, 0, 1);
    w_.reset(p_.locks + slice);
  }
  TUTTI_DEVICE void settle_slice(int slice) {
    const int first = part_.first_block(slice), last = part_.last_block(slice);
    if (first == last) return;
    const int count = last - first + 1;
    w_.await(p_.locks + slice, count);
    add_blocks(slice, first, last, block_ - first, count);
    if (w_.arrives(p_.locks + slice) == 2 * count - 1) w_.reset(p_.locks + slice);
  }

  // Adds and writes part `part` of `parts` of a slice: each warp has pieces of 16 rows of eight
  // columns. Blocks are added from the first to the last, so that the result doesn't depend on who
  // came when. A warp's loads of several blocks and pieces are under way together: one after the
  // other, their waits would be longer than the product of a small matrix.
  TUTTI_DEVICE void add_blocks(int slice, int first, int last, int part, int parts) {
    constexpr int kEights = Shape::kRowBlocks * Shape::kWarpsN * 8, kMost = kEights / Shape::kWarps;
    constexpr int kPieces = kMost < 8 ? kMost : 8;
    const int step = parts * Shape::kWarps;
    for (int begin = part + parts * w_.index(); begin < kEights; begin += step * kPieces)
      add_pieces<kPieces>(slice, first, last, begin, step);
  }
  // The pieces begin, begin + step, …: as many of kPieces as there are.
  template <int kPieces>
  TUTTI_DEVICE void add_pieces(int slice, int first, int last, int begin, int step) {
    constexpr int kEights = Shape::kRowBlocks * Shape::kWarpsN * 8, kLoads = kPieces <= 2 ? 4 : 2;
    Real total[kPieces][4];
    const auto place = [&](int piece) { return begin + step * piece; };
    TUTTI_UNROLL
    for (int piece = 0; piece < kPieces; ++piece) {
      TUTTI_UNROLL
      for (int e = 0; e < 4; ++e) total[piece][e] = Real(0.0f);
    }
    for (int block = first; block <= last; block += kLoads) {
      Real sums[kLoads][kPieces][4];  // zeros past the last block and the last piece
      TUTTI_UNROLL
      for (int b = 0; b < kLoads; ++b) {
        TUTTI_UNROLL
        for (int piece = 0; piece < kPieces; ++piece) {
          const int at = place(piece), i = at / 8 % Shape::kRowBlocks,
                    n = at / 8 / Shape::kRowBlocks;
          w_.load_sums(p_.sums, slot(block + b, first, n, i, at % 8),
                       exists(slice, i) && Flag(at < kEights && block + b <= last), sums[b][piece]);
        }
      }
      TUTTI_UNROLL
      for (int b = 0; b < kLoads; ++b) {
        TUTTI_UNROLL
        for (int piece = 0; piece < kPieces; ++piece) {
          TUTTI_UNROLL
          for (int e = 0; e < 4; ++e) total[piece][e] = total[piece][e] + sums[b][piece][e];
        }
      }
    }
    TUTTI_UNROLL
    for (int piece = 0; piece < kPieces; ++piece) {
      const int at = place(piece);
      if (at < kEights)
        write(slice, at / 8 / Shape::kRowBlocks, at / 8 % Shape::kRowBlocks, at % 8, total[piece]);
    }
  }

  template <class Visit>
  TUTTI_DEVICE void each_sum(const Visit& visit) {
    TUTTI_UNROLL
    for (int i = 0; i < Shape::kRowBlocks; ++i) {
      TUTTI_UNROLL
      for (int eight = 0; eight < 8; ++eight) visit(i, eight);
    }
  }

  // Where a block's sums of a slice are that begins in block `first`, in pieces of four floats. A
  // stripe opens at most two slices that others share: the one it begins in and the one it ends in.
  TUTTI_DEVICE Wide slot(int block, int first, int n, int i, int eight) {
    return Wide(w_.lane() + ((n * Shape::kRowBlocks + i) * 8 + eight) * 32) +
           int64_t(2 * block + (block == first)) * Shape::kSlot;
  }
  // Whether the lane's first row of row block i is one of A's.
  TUTTI_DEVICE Flag exists(int slice, int i) {
    return w_.lane() / 4 + (corner(slice).row + 16 * i) < Int(p_.m);
  }

  // Rounds and writes a lane's four sums of row block i and the eighth `eight` of the 64 columns
  // `n`.
  TUTTI_DEVICE void write(int slice, int n, int i, int eight, Real (&sums)[4]) {
    const Corner at = corner(slice);
    const int columns = at.column + n * kMarlinChunk;
    Real left(1.0f), right(1.0f);
    if (!kGrouped) {
      const int word = columns / 2 + 16 * (eight / 4) + eight % 4;
      const Word two = w_.load_word(p_.scales, w_.lane() % 4 * 4 + word);
      left = w_.low_half(two);
      right = w_.high_half(two);
    }
    TUTTI_UNROLL
    for (int lower = 0; lower < 2; ++lower) {
      const Int row = w_.lane() / 4 + (at.row + 16 * i + 8 * lower);
      const Int column = w_.lane() % 4 * 2 + (columns + 8 * eight);
      w_.store_pair(p_.c, Wide(row) * p_.n + Wide(column), row < Int(p_.m), sums[2 * lower] * left,
                    sums[2 * lower + 1] * right);
    }
  }

  Warp& w_;
  const MarlinProblem& p_;
  const int row_problems_;
  const MarlinPartition part_;
  const int block_, warp_n_, warp_k_;

  int stage_ = 0;  // read, in pieces of shared memory
  Fragments fragments_[2];
  Real sums_[Shape::kRowBlocks][8][4];  // [16 rows][8 columns][elements of mma's result]

  // The copies: the next tile, the stripe's end, the stage it goes to, the slice's tiles left and
  // its rows, and each thread's place in pieces of 16 bytes.
  int fetch_at_ = 0, fetch_end_ = 0, fetch_stage_ = 0, fetch_left_ = 0, fetch_rows_ = 0;
  Int a_from_{}, b_from_{}, scale_from_{};
  int scale_rows_ = 0, scale_tiles_ = 1, scale_left_ = 1;
};

}  // namespace tutti::tensor::cuda
