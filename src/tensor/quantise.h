// Rows of stored blocks to floats and back, scalar, straight from the format's definition: the
// oracle of the packed kernels and the code of the quantiser.
#pragma once

#include <cstddef>
#include <span>

#include "tensor/type.h"

namespace tutti::tensor {

// out.size() elements, a multiple of the block; raw.size() == row_bytes(type, out.size()).
void dequantise(Type type, std::span<const std::byte> raw, std::span<float> out);
// The format's reference quantiser (round-to-nearest per block; K-quants by a scale search that
// minimises the weighted square error). `importance`, when given, weighs each element (size of x).
void quantise(Type type, std::span<const float> x, std::span<std::byte> raw,
              std::span<const float> importance = {});

}  // namespace tutti::tensor
