// A learned linear map between hidden states: y = W x + b, as Hidden Transfer (sheet 05) inserts
// rows with.
#pragma once

#include <memory>
#include <vector>

#include "tensor/matrix.h"

namespace tutti::models {

struct LinearMap {
  int width = 0;              // in = out = the model's hidden size
  std::vector<float> weight;  // [width, width], row-major
  std::vector<float> bias;    // [width] or empty
  tensor::Matrix packed;      // of weight

  // Throws Error(kUsage) when the sizes do not fit.
  static std::shared_ptr<const LinearMap> make(int width, std::vector<float> weight,
                                               std::vector<float> bias);
};

}  // namespace tutti::models
