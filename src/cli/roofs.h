// What a machine can do at best, measured where the benchmarks run.
#pragma once

#include <cstddef>
#include <vector>

#include "base/pool.h"
#include "tensor/peak.h"

namespace tutti::cli {

struct Spread {
  double median, low, high;
};
// `samples` is not empty.
Spread spread_of(std::vector<double> samples);

// Bytes a second that all workers read together from a buffer of `bytes`, again and again: the best
// of five or more.
double read_bandwidth(ComputePool& pool, size_t bytes);

// Multiply-adds a second of all workers together at the level in use: the best of five.
double compute_peak(ComputePool& pool, tensor::Peak peak);

}  // namespace tutti::cli
