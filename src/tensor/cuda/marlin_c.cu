#include "tensor/cuda/marlin_c.h"

#include "tensor/cuda/marlin.h"

namespace {

using namespace tutti::tensor::cuda;

MarlinProblem sized(int m, int n, int k, int group) {
  MarlinProblem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.group = group;
  return problem;
}

}  // namespace

int tutti_marlin_workspace(int m, int n, int k, int group, int tile, int blocks_per_multiprocessor,
                           int stages, int adder, int64_t* sums, int64_t* locks) {
  MarlinWorkspace workspace;
  const MarlinStatus status = marlin_workspace(
      sized(m, n, k, group),
      {MarlinTile(tile), blocks_per_multiprocessor, stages, MarlinSums(adder)}, workspace);
  *sums = workspace.sums;
  *locks = workspace.locks;
  return int(status);
}

int tutti_marlin_matmul(const void* a, const void* words, const void* scales, void* c, float* sums,
                        int* locks, int m, int n, int k, int group, int tile,
                        int blocks_per_multiprocessor, int stages, int adder, void* stream) {
  MarlinProblem problem = sized(m, n, k, group);
  problem.a = a;
  problem.words = words;
  problem.scales = scales;
  problem.c = c;
  problem.sums = sums;
  problem.locks = locks;
  return int(marlin_matmul(
      problem, stream, {MarlinTile(tile), blocks_per_multiprocessor, stages, MarlinSums(adder)}));
}
