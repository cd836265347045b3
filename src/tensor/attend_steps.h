// Attention of one row and one KV head in three steps, for workers that share it: keys are split
// for the first two, dimensions for the third, so that together they read every slot once. (Split
// by query heads, each of them reads all slots.) A worker begins a step when all have done the one
// before. However keys and dimensions are split, outputs have the bits of Kernels::attend.
#pragma once

#include <cstddef>

#include "tensor/kernels.h"

namespace tutti::tensor {

// The largest score of each softmax class of one query head, -inf where it has no key.
struct AttendMaxima {
  float of[kMaxSoftmaxClasses];
};

// Scores and weights are [group][stride], keys in View order; maxima [parts][group], one part of
// each worker's keys.
struct AttendSteps {
  // Scores of the keys in `runs` (which may be none), from scores[0] on, and their part of maxima.
  void (*scores)(const AttendParams& p, const float* q, const KvRun* runs, int run_count,
                 float* scores, size_t stride, AttendMaxima* part);
  // The same keys' scores become weights.
  void (*weights)(const AttendParams& p, const KvRun* runs, int run_count,
                  const AttendMaxima* maxima, int parts, float* scores, size_t stride);
  // Dimensions [first_dim, last_dim), multiples of 16, of out[group][head_dim], from all runs
  // (at least one) and their weights.
  void (*values)(const AttendParams& p, const KvRun* runs, int run_count,
                 const AttendMaxima* maxima, int parts, const float* weights, size_t stride,
                 int first_dim, int last_dim, float* out);
};

// The steps of one level. Throws Error(kUsage) when this machine cannot run it.
const AttendSteps& attend_steps(Isa isa);

}  // namespace tutti::tensor
