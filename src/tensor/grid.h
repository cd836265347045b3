// A weight matrix on a grid of integers with one scale per group of inputs and output: what GPTQ,
// AWQ, compressed-tensors and MARLIN checkpoints hold, whatever their order of bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/type.h"

namespace tutti::tensor {

// w[o][k] = (codes[k][o] - zero) * scales[g][o], g = group of input k.
struct Grid {
  int in = 0, out = 0;
  int bits = 4;                 // 4 or 8: codes are below 2^bits
  int group = 0;                // inputs that share a scale, >= 1; the last group may be shorter
  std::vector<uint8_t> codes;   // [in][out]
  std::vector<float> scales;    // [groups][out]
  std::vector<uint16_t> zeros;  // [groups][out], at most 2^bits; empty: 2^(bits - 1) everywhere
  std::vector<int32_t> groups;  // [in]: the group of each input; empty: k / group

  int group_count() const { return (in + group - 1) / group; }
  int group_of(int k) const { return groups.empty() ? k / group : groups[size_t(k)]; }
  int zero(int g, int o) const {
    return zeros.empty() ? 1 << (bits - 1) : zeros[size_t(g) * size_t(out) + size_t(o)];
  }
  // Row-major [out][in], as every other matrix here.
  std::vector<float> dequantised() const;
};

// Throws Error(kUsage) unless the parts have the sizes that the numbers say, codes and groups their
// ranges.
void check_grid(const Grid& grid);

// The same values in a type that the kernels know, bit for bit: Q4_0 for symmetric 4-bit codes,
// Q5_0 for 4-bit codes with zero points (code - zero lies in [-16, 15]), Q8_0 for 8-bit codes. They
// have a half scale for every 32 inputs, so F32 stands in where a scale is no half, where groups
// cut a block of 32 (an order of activations), where `in` is no multiple of 32, or where code -
// zero leaves a signed byte.
struct StoredGrid {
  Type type = Type::kF32;
  std::vector<std::byte> rows;  // [out] rows of row_bytes(type, in)
};
StoredGrid stored(const Grid& grid);

// Round to nearest, symmetric: scale = 2 max|w| / (2^bits - 1) over each group, rounded to half,
// and code = clamp(round(w / scale) + 2^(bits - 1)); halves go away from zero. Groups of zeros get
// scale 0 and the code of 0. `w` is [out][in], finite.
Grid round_to_nearest(std::span<const float> w, int out, int in, int bits, int group);

// The code of w on the symmetric grid with that scale.
uint8_t grid_code(double w, double scale, int bits);

}  // namespace tutti::tensor
