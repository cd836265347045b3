// The definition of the class bf16-dot: VDPBF16PS as Intel's manual documents it (volume 2,
// "VDPBF16PS"): to nearest even, subnormal operands and results are zeros of their sign, MXCSR is
// not asked; the upper products come first.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::scalar {
namespace {

constexpr float kLeastNormal = 0x1p-126f;

float without_subnormals(float x) {
  return std::fabs(x) < kLeastNormal ? std::copysign(0.0f, x) : x;
}

// fma(a, b, sum). Whether a result is subnormal is decided after rounding to 24 bits as if the
// exponent had no end: what rounds up to the least normal number only because subnormals have fewer
// bits is zero. A product of bf16 and a sum of this size add exactly enough in double to tell.
float step(float a, float b, float sum) {
  a = without_subnormals(a);
  b = without_subnormals(b);
  sum = without_subnormals(sum);
  const float result = std::fma(a, b, sum);
  if (std::fabs(result) == kLeastNormal &&
      std::fabs(double(a) * double(b) + double(sum)) < 0x1p-126 - 0x1p-151) {
    return std::copysign(0.0f, result);
  }
  return without_subnormals(result);
}

}  // namespace

void matmul_bf16(const Matrix& w, const uint16_t* x, size_t x_stride, int rows, int tile_first,
                 int tile_last, float* y, size_t y_stride) {
  const MatrixView m = view(w);
  for (int t = tile_first; t < tile_last; ++t) {
    const std::byte* tile = m.data + size_t(t) * m.tile_bytes;
    const int lanes = std::min(kTileOutputs, m.out - t * kTileOutputs);
    for (int r = 0; r < rows; ++r) {
      const uint16_t* from = x + size_t(r) * x_stride;
      for (int o = 0; o < lanes; ++o) {
        float sum = 0.0f;
        for (int i = 0; i < (m.in + 1) / 2; ++i) {
          uint16_t pair[2];
          std::memcpy(pair, tile + size_t(i) * 64 + size_t(4 * o), 4);
          for (const int upper : {1, 0}) {
            sum = step(bfloat16_to_float(pair[upper]), bfloat16_to_float(from[2 * i + upper]), sum);
          }
        }
        y[size_t(r) * y_stride + size_t(t) * kTileOutputs + size_t(o)] = sum;
      }
    }
  }
}

}  // namespace tutti::tensor::scalar
