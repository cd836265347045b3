// The Warp of marlin_block.h on a CPU, for tests: one thread runs the text for all 32 lanes, whose
// values stand side by side. A block is eight such threads. What a GPU does to a warp as a whole
// (ldmatrix, mma) is done by its definition; asynchronous copies happen as late as they may, when
// they are waited for, or as early, when they are started.
#pragma once

#include <array>
#include <barrier>
#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/half.h"
#include "tensor/cuda/marlin_block.h"

namespace tutti::tensor::cuda {

inline constexpr int kLanes = 32;

template <class T>
struct Lanes {
  std::array<T, kLanes> at{};

  Lanes() = default;
  Lanes(T x) { at.fill(x); }  // NOLINT: every lane has it
  template <class U>
  explicit Lanes(const Lanes<U>& other) {
    for (int i = 0; i < kLanes; ++i) at[size_t(i)] = T(other.at[size_t(i)]);
  }
  T operator[](int lane) const { return at[size_t(lane)]; }
};

template <class T, class Act>
auto by_lane(const Lanes<T>& a, const Lanes<T>& b, const Act& act) {
  Lanes<decltype(act(a[0], b[0]))> result;
  for (int i = 0; i < kLanes; ++i) result.at[size_t(i)] = act(a[i], b[i]);
  return result;
}

// Element by element, with a lane's type or a number that all lanes have.
#define TUTTI_LANES_OPERATOR(op)                           \
  template <class T>                                       \
  auto operator op(const Lanes<T>& a, const Lanes<T>& b) { \
    return by_lane(a, b, [](T x, T y) { return x op y; }); \
  }                                                        \
  template <class T, class N>                              \
    requires std::is_arithmetic_v<N>                       \
  auto operator op(const Lanes<T>& a, N b) {               \
    return a op Lanes<T>(T(b));                            \
  }                                                        \
  template <class T, class N>                              \
    requires std::is_arithmetic_v<N>                       \
  auto operator op(N a, const Lanes<T>& b) {               \
    return Lanes<T>(T(a)) op b;                            \
  }
TUTTI_LANES_OPERATOR(+)
TUTTI_LANES_OPERATOR(*)
TUTTI_LANES_OPERATOR(/)
TUTTI_LANES_OPERATOR(%)
TUTTI_LANES_OPERATOR(&)
TUTTI_LANES_OPERATOR(|)
TUTTI_LANES_OPERATOR(^)
TUTTI_LANES_OPERATOR(>>)
TUTTI_LANES_OPERATOR(<)
TUTTI_LANES_OPERATOR(&&)
#undef TUTTI_LANES_OPERATOR

enum class Copies { kLate, kEarly };

// What a block's eight warps share.
struct EmulatedBlock {
  EmulatedBlock(int shared_bytes, Copies copies_)
      : shared(size_t(shared_bytes), std::byte{0xff}), barrier(8), copies(copies_) {}
  std::vector<std::byte> shared;  // begins as NaNs: reading what nobody wrote shows
  std::barrier<> barrier;
  const Copies copies;
  int before = 0;  // blocks that had arrived
};

class EmulatedWarp {
 public:
  using Int = Lanes<int>;
  using Word = Lanes<uint32_t>;
  using Wide = Lanes<int64_t>;
  using Real = Lanes<float>;
  using Flag = Lanes<bool>;

  EmulatedWarp(EmulatedBlock& block, int index) : block_(block), index_(index) {
    for (int i = 0; i < kLanes; ++i) lane_.at[size_t(i)] = i;
  }

  int index() const { return index_; }
  Int lane() const { return lane_; }
  Int thread() const { return lane_ + 32 * index_; }
  void sync() { block_.barrier.arrive_and_wait(); }

  void copy(Int to, const void* from, Int piece, Flag inside) {
    for (int i = 0; i < kLanes; ++i) {
      if (!inside[i]) continue;
      const Copy one{shared(to[i]), static_cast<const std::byte*>(from) + 16 * int64_t(piece[i])};
      if (block_.copies == Copies::kEarly) one.run();
      if (block_.copies == Copies::kLate) open_.push_back(one);
    }
  }
  void copy_once(Int to, const void* from, Int piece) { copy(to, from, piece, true); }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  template <int kPending>
  void wait() {
    for (; groups_.size() > size_t(kPending); groups_.pop_front()) {
      for (const Copy& c : groups_.front()) c.run();
    }
  }

  // Four 8 x 8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8, and gets
  // the pair of elements 2 (i % 4), + 1 of row i / 4 of each.
  void load_matrices(Int from, Word (&to)[4]) {
    for (int m = 0; m < 4; ++m) {
      for (int i = 0; i < kLanes; ++i)
        std::memcpy(&to[m].at[size_t(i)], shared(from[8 * m + i / 4]) + 4 * (i % 4), 4);
    }
  }
  void load(Int from, Word (&to)[4]) {
    for (int i = 0; i < kLanes; ++i) spread(shared(from[i]), i, to);
  }
  Word load_word(const void* from, Int place) {
    Word x;
    for (int i = 0; i < kLanes; ++i)
      std::memcpy(&x.at[size_t(i)], static_cast<const std::byte*>(from) + 4 * int64_t(place[i]), 4);
    return x;
  }
  void store_reals(Int to, const Real (&x)[4]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 4; ++e) std::memcpy(shared(to[i]) + 4 * e, &x[e].at[size_t(i)], 4);
    }
  }
  void add_reals(Int from, Real (&x)[4]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 4; ++e) {
        float other;
        std::memcpy(&other, shared(from[i]) + 4 * e, 4);
        x[e].at[size_t(i)] += other;
      }
    }
  }

  // mma.m16n8k16: A and B from the lanes' pairs as the instruction set's manual lays them out.
  void multiply_add(Real (&c)[4], const Word (&a)[4], Word b0, Word b1) {
    float left[16][16], right[16][8];
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 2; ++e) {
        const int row = i / 4, k = 2 * (i % 4) + e;
        left[row][k] = half(a[0][i], e);
        left[row + 8][k] = half(a[1][i], e);
        left[row][k + 8] = half(a[2][i], e);
        left[row + 8][k + 8] = half(a[3][i], e);
        right[k][row] = half(b0[i], e);
        right[k + 8][row] = half(b1[i], e);
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 4; ++e) {
        const int row = i / 4 + 8 * (e / 2), column = 2 * (i % 4) + e % 2;
        double sum = c[e][i];
        for (int k = 0; k < 16; ++k) sum += double(left[row][k]) * double(right[k][column]);
        c[e].at[size_t(i)] = float(sum);
      }
    }
  }
  Word masked(Word q, Word mask, Word bits) { return (q & mask) | bits; }
  Word twice(Word pair, int h) { return (pair >> 16 * h & Word(0xffff)) * 0x10001u; }
  Word subtract_halfs(Word a, Word b) {
    return pairs(a, b, b, [](double x, double y, double) { return x - y; });
  }
  Word multiply_halfs(Word a, Word b) {
    return pairs(a, b, b, [](double x, double y, double) { return x * y; });
  }
  Word fma_halfs(Word a, Word b, Word c) {
    return pairs(a, b, c, [](double x, double y, double z) { return x * y + z; });
  }
  Real low_half(Word a) { return halfs(a, 0); }
  Real high_half(Word a) { return halfs(a, 1); }

  void load_sums(const float* sums, Wide piece, Flag inside, Real (&x)[4]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 4; ++e) x[e].at[size_t(i)] = inside[i] ? sums[4 * piece[i] + e] : 0.0f;
    }
  }
  void store_sums(float* sums, Wide piece, Flag inside, const Real (&x)[4]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; inside[i] && e < 4; ++e) sums[4 * piece[i] + e] = x[e][i];
    }
  }
  void store_pair(void* c, Wide place, Flag inside, Real a, Real b) {
    for (int i = 0; i < kLanes; ++i) {
      if (!inside[i]) continue;
      static_cast<uint16_t*>(c)[place[i]] = float_to_half(a[i]);
      static_cast<uint16_t*>(c)[place[i] + 1] = float_to_half(b[i]);
    }
  }

  // Blocks are run one after the other: the counter needs no care.
  int arrives(int* counter) {
    sync();
    if (index_ == 0) block_.before = (*counter)++;
    sync();
    return block_.before;
  }
  void await(const int* counter, int count) {
    sync();
    if (*counter < count) throw std::logic_error("a block would wait for ever");
    sync();
  }
  void reset(int* counter) {
    if (index_ == 0) *counter = 0;
  }

 private:
  struct Copy {
    std::byte* to;
    const std::byte* from;
    void run() const { std::memcpy(to, from, 16); }
  };

  std::byte* shared(int piece) const {
    if (piece < 0 || size_t(piece) * 16 + 16 > block_.shared.size())
      throw std::logic_error("outside shared memory");
    return block_.shared.data() + size_t(piece) * 16;
  }
  static void spread(const std::byte* from, int lane, Word (&to)[4]) {
    for (int j = 0; j < 4; ++j) std::memcpy(&to[j].at[size_t(lane)], from + 4 * j, 4);
  }
  static float half(uint32_t pair, int e) { return half_to_float(uint16_t(pair >> (16 * e))); }
  static Real halfs(const Word& pair, int e) {
    Real x;
    for (int i = 0; i < kLanes; ++i) x.at[size_t(i)] = half(pair[i], e);
    return x;
  }
  // The result of an operation on halves is rounded once: doubles hold every product and sum of
  // them.
  template <class Act>
  static Word pairs(const Word& a, const Word& b, const Word& c, const Act& act) {
    Word result;
    for (int i = 0; i < kLanes; ++i) {
      for (int e = 0; e < 2; ++e) {
        const auto x = float(act(half(a[i], e), half(b[i], e), half(c[i], e)));
        result.at[size_t(i)] |= uint32_t(float_to_half(x)) << (16 * e);
      }
    }
    return result;
  }

  EmulatedBlock& block_;
  const int index_;
  Int lane_;
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

// Calls act(block) of every block in the order given, by its eight warps.
template <class Shape, bool kGrouped, class Act>
void emulate_blocks(const MarlinProblem& problem, const std::vector<int>& order, Copies copies,
                    const Act& act) {
  for (const int b : order) {
    EmulatedBlock shared(Shape::kShared, copies);
    std::vector<std::thread> warps;
    for (int i = 0; i < Shape::kWarps; ++i) {
      warps.emplace_back([&, i] {
        EmulatedWarp warp(shared, i);
        MarlinBlock<Shape, EmulatedWarp, kGrouped> block(warp, problem, b);
        act(block);
      });
    }
    for (std::thread& warp : warps) warp.join();
  }
}

// The whole kernel: where blocks wait for each other, all have done before what is waited for.
template <class Shape>
void emulate_marlin(const MarlinProblem& problem, const std::vector<int>& order, Copies copies) {
  const auto run = [](auto& block) { block.run(); };
  const auto settle = [](auto& block) { block.settle(); };
  const auto both = [&](auto grouped) {
    emulate_blocks<Shape, grouped()>(problem, order, copies, run);
    if (problem.adder == MarlinSums::kShared)
      emulate_blocks<Shape, grouped()>(problem, order, copies, settle);
  };
  if (problem.group == -1) both(std::false_type());
  if (problem.group != -1) both(std::true_type());
}

}  // namespace tutti::tensor::cuda
