// What a machine can do at best, measured where the benchmarks run.
#pragma once

#include <cstddef>
#include <vector>

#include "base/pool.h"
#include "tensor/matrix.h"
#include "tensor/peak.h"

namespace tutti::cli {

struct Spread {
  double median, low, high;
};
// `samples` is not empty.
Spread spread_of(std::vector<double> samples);

// Reads a buffer of its own with all workers together.
class ReadLoop {
 public:
  explicit ReadLoop(size_t bytes);
  size_t bytes() const { return buffer_.size(); }
  // Bytes a second of one pass over the buffer. A virtual machine's bandwidth can double and halve
  // from one second to the next (its cores move between chiplets): for a fraction of the roof,
  // measure beside what it is a fraction of.
  double pass(ComputePool& pool);

 private:
  tensor::AlignedBytes buffer_;
};

// Bytes a second from a buffer of `bytes`, again and again: the best of five passes or more.
double read_bandwidth(ComputePool& pool, size_t bytes);

// Multiply-adds a second of all workers together at the level in use: the best of five.
double compute_peak(ComputePool& pool, tensor::Peak peak);

}  // namespace tutti::cli
