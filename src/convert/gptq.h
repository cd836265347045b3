// GPTQ: weights on a 4-bit grid, chosen one input after the other, each error made up for by the
// weights that are still free. Sources: Frantar et al., "GPTQ" (arXiv 2210.17323); the variant of
// MARLIN (arXiv 2408.11743): scales found from the weights as they stand when a group is reached,
// optionally shrunk to what loses least.
#pragma once

#include <span>
#include <vector>

#include "base/pool.h"
#include "tensor/grid.h"

namespace tutti::convert {

// Which input is decided next.
enum class InputOrder : uint8_t {
  kNatural,
  // By falling mean square of the input. Groups stay those of the natural order, and their scales
  // are found from the unchanged weights before anything is decided, so that the file needs no
  // order.
  kActivation,
};

struct GptqOptions {
  int group = 128;       // inputs of a scale, >= 1
  double damping = 0.1;  // this part of the mean of the Hessian's diagonal is added to it
  int clip =
      0;  // scales are tried at 100 %, 99 % ... (100 - clip) % of the largest weight's, clip <= 99
  InputOrder order = InputOrder::kNatural;
};

struct GptqResult {
  tensor::Grid grid;
  // sum over outputs of (w - q)' H (w - q), for the codes chosen and for the nearest ones, and of
  // w' H w: squared errors of what the calibration rows give, and their squares.
  double error = 0, nearest_error = 0, squares = 0;
  double relative_error() const;          // root of error / squares
  double relative_nearest_error() const;  // of rounding to nearest
};

// `w` [out][in]; `hessian` [in][in], symmetric: the sum of x x' over the calibration rows (its
// scale does not matter). An input that no row met is rounded to nearest. The result depends on the
// arguments only, not on the number of workers. Throws Error(kUsage) for options out of range, or
// when the damped Hessian is not positive definite.
GptqResult gptq(std::span<const float> w, int out, int in, std::span<const double> hessian,
                const GptqOptions& options, ComputePool& pool);

// The same report for round-to-nearest codes (`error` == `nearest_error`).
GptqResult nearest(std::span<const float> w, int out, int in, std::span<const double> hessian,
                   int group, ComputePool& pool);

}  // namespace tutti::convert
