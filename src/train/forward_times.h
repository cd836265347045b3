// How long a forward of r rows takes over ATen tensors, on a processor or a GPU: L(r), which says
// what a method gains that decides tau tokens in r rows. Weights are drawn: only sizes count.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/model_shape.h"

namespace tutti::train {

struct ForwardTimesRequest {
  ModelShape shape;            // a causal family
  std::string device = "cpu";  // as Recipe::device
  bool bf16 = true;            // weights, keys and values; else fp32
  int depth = 0;               // tokens of the sequence before the rows
  std::vector<int> rows;
  int repeats = 0;  // of all row counts, in turns
  int threads = 1;
};

struct ForwardTimesResult {
  int64_t parameters = 0;
  double weight_bytes = 0;    // read by every forward
  double copy_bandwidth = 0;  // bytes a second, read and written, of a copy of 1 GiB on the device
  // By row count, as asked: from the planned batch to its rows' likeliest tokens on the host.
  std::vector<std::vector<double>> seconds;  // [rows][repeats]
  std::string machine;
};

// The function of the library that is opened on demand. Throws Error.
using ForwardTimesFunction = void (*)(const ForwardTimesRequest& request,
                                      ForwardTimesResult& result);
inline constexpr const char* kForwardTimesFunction = "tutti_forward_times";

}  // namespace tutti::train
