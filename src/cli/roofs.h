// What a machine can do at best, measured where the benchmarks run.
#pragma once

#include <cstddef>
#include <vector>

#include "base/pool.h"

namespace tutti::cli {

struct Spread {
  double median, low, high;
};
// `samples` is not empty.
Spread spread_of(std::vector<double> samples);

// Bytes a second that all workers read together from a buffer of `bytes`, again and again: the best
// of five.
double read_bandwidth(ComputePool& pool, size_t bytes);

}  // namespace tutti::cli
