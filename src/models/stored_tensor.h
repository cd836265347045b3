// A matrix or vector as it lies in a model file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/weights.h"
#include "tensor/type.h"

namespace tutti::models {

// A matrix or vector in its stored type. `data` points into the file's map or into memory that the
// Checkpoint owns (permuted rows, converted dtypes).
struct StoredTensor {
  tensor::Type type = tensor::Type::kF32;
  int rows = 0;  // 0: absent; a vector has 1 row
  int cols = 0;
  std::span<const std::byte> data;
  std::string name;  // in the file, for errors

  bool empty() const { return rows == 0; }
  // All elements as fp32, row-major.
  std::vector<float> floats() const;
  // The rows [first, first + count), in the same memory.
  StoredTensor slice(int first, int count) const;
};

// Memory that stored tensors point into when the file's own bytes do not serve.
using OwnedBytes = std::vector<std::shared_ptr<std::vector<std::byte>>>;

using StoredWeights = Weights<StoredTensor, StoredTensor>;

}  // namespace tutti::models
