#include "models/stored_tensor.h"

#include "tensor/quantise.h"

namespace tutti::models {

std::vector<float> StoredTensor::floats() const {
  std::vector<float> out(size_t(rows) * size_t(cols));
  if (!out.empty()) tensor::dequantise(type, data, out);
  return out;
}

StoredTensor StoredTensor::slice(int first, int count) const {
  StoredTensor part = *this;
  const size_t bytes = tensor::row_bytes(type, cols);
  part.rows = count;
  part.data = data.subspan(size_t(first) * bytes, size_t(count) * bytes);
  return part;
}

}  // namespace tutti::models
