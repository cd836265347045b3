// The definition of the products: plain loops, one fma chain per output, k ascending. The other
// levels give the same bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/half.h"
#include "tensor/levels.h"
#include "tensor/packing.h"

namespace tutti::tensor::scalar {
namespace {

float half_at(const std::byte* p, int i) {
  uint16_t h;
  std::memcpy(&h, p + 2 * i, 2);
  return half_to_float(h);
}

// The stored quant (offset included) of element `e` of 32 and output `o`.
int quant(int bits, const std::byte* sub, int o, int e) {
  const int group = e / 4, byte = 4 * o + e % 4;
  const auto at = [&](int chunk) { return int(sub[64 * chunk + byte]); };
  if (bits == 8) return at(group);
  int q = at(group % 4) >> (group < 4 ? 0 : 4) & 15;
  if (bits == 5) q |= (at(4) >> group & 1) << 4;
  if (bits == 6) q |= (at(4 + group / 4) >> 2 * (group % 4) & 3) << 4;
  return q;
}

// Exact sum of (q - offset) * a over n elements from element `first` of a sub-block.
int32_t dot(PackedShape shape, const std::byte* sub, int o, int first, int n, const int8_t* a) {
  int32_t sum = 0;
  for (int e = first; e < first + n; ++e)
    sum += (quant(shape.bits, sub, o, e) - shape.offset) * a[e];
  return sum;
}

}  // namespace

void quantise(const float* x, size_t stride, int rows, const QuantisedRows& out, int first) {
  const int n = out.n, block = out.block;
  for (int r = 0; r < rows; ++r) {
    const float* from = x + size_t(r) * stride;
    int8_t* q = out.q + size_t(first + r) * size_t(n);
    float* scales = out.scales + size_t(first + r) * size_t(n / block);
    int32_t* sums = out.sums + size_t(first + r) * size_t(n / 16);
    for (int b = 0; b < n / block; ++b, from += block, q += block) {
      // The largest magnitude by its bits: infinities and NaNs rank above every number.
      uint32_t bits = 0;
      for (int i = 0; i < block; ++i)
        bits = std::max(bits, std::bit_cast<uint32_t>(from[i]) & 0x7fffffffu);
      const float largest = std::bit_cast<float>(bits);
      const float inverse = 127.0f / largest;
      if (bits >= 0x7f800000u || !(inverse < std::numeric_limits<float>::infinity())) {
        // A block with a NaN or infinity poisons what it meets; one so small that 127/amax
        // overflows is zero.
        scales[b] = bits >= 0x7f800000u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
        std::fill_n(q, block, int8_t{0});
      } else {
        scales[b] = largest / 127.0f;
        for (int i = 0; i < block; ++i) {
          q[i] = int8_t(std::clamp(std::nearbyintf(from[i] * inverse), -127.0f, 127.0f));
        }
      }
      for (int s = 0; s < block / 16; ++s) {
        int32_t sum = 0;
        for (int i = 0; i < 16; ++i) sum += q[16 * s + i];
        sums[(b * block) / 16 + s] = sum;
      }
    }
  }
}

void matmul_quantised(const Matrix& w, const QuantisedRows& x, int rows, int tile_first,
                      int tile_last, float* y, size_t y_stride) {
  const MatrixView m = view(w);
  const PackedShape shape = packed_shape(m.type);
  const bool small = shape.block == 32, six = shape.bits == 6;
  const int blocks = m.in / shape.block;
  for (int t = tile_first; t < tile_last; ++t) {
    const std::byte* tile = m.data + size_t(t) * m.tile_bytes;
    const int lanes = std::min(kTileOutputs, m.out - t * kTileOutputs);
    for (int r = 0; r < rows; ++r) {
      const int8_t* q = x.q + size_t(r) * size_t(m.in);
      const float* scales = x.scales + size_t(r) * size_t(blocks);
      const int32_t* sums = x.sums + size_t(r) * size_t(m.in / 16);
      for (int o = 0; o < lanes; ++o) {
        float sum = 0.0f;
        for (int b = 0; b < blocks; ++b) {
          const std::byte* record = tile + packed_record(shape, b);
          const std::byte* sub = tile + packed_sub(shape, b * shape.subs());
          const int8_t* a = q + size_t(b) * size_t(shape.block);
          const int32_t* a_sums = sums + size_t(b) * size_t(shape.block / 16);
          int32_t product = 0, minimum = 0;
          if (small) {
            product = dot(shape, sub, o, 0, 32, a);
            minimum = a_sums[0] + a_sums[1];
          } else {
            for (int s = 0; s < 8; ++s, sub += shape.sub_bytes, a += 32, a_sums += 2) {
              const int place = 32 * (s / 2) + 2 * o + s % 2;
              if (six) {
                const std::byte* pair = record + 32 + 32 * s + 2 * o;
                product += int8_t(pair[0]) * dot(shape, sub, o, 0, 16, a);
                product += int8_t(pair[1]) * dot(shape, sub, o, 16, 16, a);
              } else {
                product += int(record[64 + place]) * dot(shape, sub, o, 0, 32, a);
                minimum += int(record[192 + place]) * (a_sums[0] + a_sums[1]);
              }
            }
          }
          sum = std::fma(half_at(record, o) * scales[b], float(product), sum);
          if (shape.minimum) {
            const float m_w = half_at(record, 16 + o);
            sum = std::fma(small ? m_w : -m_w, scales[b] * float(minimum), sum);
          }
        }
        y[size_t(r) * y_stride + size_t(t) * kTileOutputs + size_t(o)] = sum;
      }
    }
  }
}

void matmul_dense(const Matrix& w, const float* x, size_t x_stride, int rows, int tile_first,
                  int tile_last, float* y, size_t y_stride) {
  const MatrixView m = view(w);
  // Output o of a tile, element k.
  const auto weight = [&](const std::byte* tile, int o, int k) {
    const size_t i = size_t(k) * kTileOutputs + size_t(o);
    if (m.type == Type::kF32) {
      float f;
      std::memcpy(&f, tile + 4 * i, 4);
      return f;
    }
    if (m.type == Type::kQ4_0) {
      const PackedShape shape = packed_shape(m.type);
      const std::byte* record = tile + packed_record(shape, k / 32);
      const std::byte* sub = tile + packed_sub(shape, k / 32);
      return float(quant(shape.bits, sub, o, k % 32) - shape.offset) * half_at(record, o);
    }
    uint16_t h;
    std::memcpy(&h, tile + 2 * i, 2);
    return m.type == Type::kF16 ? half_to_float(h) : bfloat16_to_float(h);
  };
  for (int t = tile_first; t < tile_last; ++t) {
    const std::byte* tile = m.data + size_t(t) * m.tile_bytes;
    const int lanes = std::min(kTileOutputs, m.out - t * kTileOutputs);
    for (int r = 0; r < rows; ++r) {
      const float* from = x + size_t(r) * x_stride;
      for (int o = 0; o < lanes; ++o) {
        float sum = 0.0f;
        for (int k = 0; k < m.in; ++k) {
          sum = std::fma(weight(tile, o, k), from[k], sum);
        }
        y[size_t(r) * y_stride + size_t(t) * kTileOutputs + size_t(o)] = sum;
      }
    }
  }
}

}  // namespace tutti::tensor::scalar
