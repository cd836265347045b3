// The library of marlin_c.h on a CPU: the kernel's text over an emulated warp, on a GPU of three
// multiprocessors. It lets the script that judges the kernel on a GPU (bench/cuda/marlin.py) be
// tested where there is none.
#include <numeric>

#include "tensor/cuda/emulated_warp.h"
#include "tensor/cuda/marlin.h"
#include "tensor/cuda/marlin_c.h"

namespace {

using namespace tutti::tensor::cuda;

constexpr int kMultiprocessors = 3;

// Calls act(Shape) with the shape that marlin.cu takes.
template <class Act>
void with_shape(int m, int tile, const Act& act) {
  if (tile == int(MarlinTile::kNarrow)) return act(MarlinShape<1, 128, 128>());
  if (m <= 16) return act(MarlinShape<1, 64, 256>());
  if (m <= 32) return act(MarlinShape<2, 64, 256, 8>());
  if (m <= 48) return act(MarlinShape<3, 64, 256>());
  return act(MarlinShape<4, 64, 256>());
}

int blocks(int blocks_per_multiprocessor) {
  return kMultiprocessors * (blocks_per_multiprocessor > 0 ? blocks_per_multiprocessor : 1);
}

}  // namespace

int tutti_marlin_workspace(int m, int n, int, int, int tile, int blocks_per_multiprocessor, int,
                           int, int64_t* sums, int64_t* locks) {
  with_shape(m, tile, [&](auto shape) {
    using Shape = decltype(shape);
    *sums = int64_t(2) * blocks(blocks_per_multiprocessor) * Shape::kSlot * 4;
    *locks = int64_t((m + Shape::kRows - 1) / Shape::kRows) * (n / Shape::kTileN);
  });
  return 0;
}

int tutti_marlin_matmul(const void* a, const void* words, const void* scales, void* c, float* sums,
                        int* locks, int m, int n, int k, int group, int tile,
                        int blocks_per_multiprocessor, int, int adder, void*) {
  MarlinProblem problem;
  problem.a = a;
  problem.words = words;
  problem.scales = scales;
  problem.c = c;
  problem.sums = sums;
  problem.locks = locks;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.group = group;
  problem = as_stored(problem);
  problem.blocks = blocks(blocks_per_multiprocessor);
  problem.adder = adder == int(MarlinSums::kShared) ? MarlinSums::kShared : MarlinSums::kLast;
  std::vector<int> order(size_t(problem.blocks));
  std::iota(order.begin(), order.end(), 0);
  with_shape(m, tile,
             [&](auto shape) { emulate_marlin<decltype(shape)>(problem, order, Copies::kLate); });
  return 0;
}
