#include "tensor/quantise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/half.h"

namespace tutti::tensor {
namespace {

// Bytes of one block, read in order.
struct Reader {
  const std::byte* p;
  int u8(int i) const { return int(p[i]); }
  int i8(int i) const { return int(int8_t(p[i])); }
  float half(int i) const { return half_to_float(uint16_t(u8(i) | u8(i + 1) << 8)); }
  uint32_t word(int i) const {
    uint32_t w;
    std::memcpy(&w, p + i, 4);
    return w;
  }
};

void put_half(std::byte* p, float f) {
  const uint16_t h = float_to_half(f);
  std::memcpy(p, &h, 2);
}

// The six-bit scale and minimum of sub-block j of a Q4_K or Q5_K block, from its 12 packed bytes.
struct ScaleMin {
  int scale, min;
};
ScaleMin unpack_scale_min(Reader packed, int j) {
  if (j < 4) return {packed.u8(j) & 63, packed.u8(j + 4) & 63};
  return {(packed.u8(j + 4) & 15) | (packed.u8(j - 4) >> 6) << 4,
          packed.u8(j + 4) >> 4 | (packed.u8(j) >> 6) << 4};
}

void pack_scale_mins(const std::array<ScaleMin, 8>& pairs, std::byte* packed) {
  for (int j = 0; j < 4; ++j) {
    packed[j] = std::byte(pairs[size_t(j)].scale | (pairs[size_t(j) + 4].scale >> 4) << 6);
    packed[j + 4] = std::byte(pairs[size_t(j)].min | (pairs[size_t(j) + 4].min >> 4) << 6);
    packed[j + 8] =
        std::byte((pairs[size_t(j) + 4].scale & 15) | (pairs[size_t(j) + 4].min & 15) << 4);
  }
}

// ---- blocks to floats

void dequantise_small(Type type, Reader block, float* out) {
  const float d = block.half(0);
  if (type == Type::kQ8_0) {
    for (int j = 0; j < 32; ++j) out[j] = d * float(block.i8(2 + j));
    return;
  }
  const bool five = type == Type::kQ5_0 || type == Type::kQ5_1;
  const bool minimum = type == Type::kQ4_1 || type == Type::kQ5_1;
  const float m = minimum ? block.half(2) : 0.0f;
  const int offset = minimum ? 0 : five ? 16 : 8;
  const int after = minimum ? 4 : 2;
  const uint32_t high = five ? block.word(after) : 0;
  const int nibbles = after + (five ? 4 : 0);
  for (int j = 0; j < 32; ++j) {
    const int low = j < 16 ? block.u8(nibbles + j) & 15 : block.u8(nibbles + j - 16) >> 4;
    const int q = low | int((high >> j) & 1u) << 4;
    const float scaled = d * float(q - offset);
    out[j] = minimum ? scaled + m : scaled;
  }
}

void dequantise_k45(bool five, Reader block, float* out) {
  const float d = block.half(0), dmin = block.half(2);
  const int nibbles = five ? 48 : 16;
  for (int j = 0; j < 256; ++j) {
    const int s = j / 32, l = j % 32;
    const ScaleMin sm = unpack_scale_min({block.p + 4}, s);
    const int byte = block.u8(nibbles + 32 * (s / 2) + l);
    int q = s % 2 ? byte >> 4 : byte & 15;
    if (five) q |= (block.u8(16 + l) >> s & 1) << 4;
    const float scale = d * float(sm.scale), min = dmin * float(sm.min);
    out[j] = scale * float(q) - min;
  }
}

void dequantise_k6(Reader block, float* out) {
  const float d = block.half(208);
  for (int j = 0; j < 256; ++j) {
    const int half = j / 128, quarter = j % 128 / 32, l = j % 32;
    const int byte = block.u8(64 * half + 32 * (quarter % 2) + l);
    const int low = quarter / 2 ? byte >> 4 : byte & 15;
    const int high = block.u8(128 + 32 * half + l) >> (2 * quarter) & 3;
    const float scale = d * float(block.i8(192 + j / 16));
    out[j] = scale * float((low | high << 4) - 32);
  }
}

// ---- floats to blocks: scale searches

// The nearest whole number (halves to even) in low..high, |bounds| < 2^22, as a float: adding 1.5 *
// 2^23 leaves no bit for a fraction. A NaN gives `low`: any code will do, but the same everywhere.
float rounded(float value, float low, float high) {
  constexpr float kWhole = 12582912.0f;
  const float bounded = value > low ? (value < high ? value : high) : low;
  return (bounded + kWhole) - kWhole;
}
int clamped(float value, int low, int high) { return int(rounded(value, float(low), float(high))); }

// Sums over a sub-block in four lanes, so that they need not wait for one another.
template <size_t kSums, class Terms>
std::array<double, kSums> sums_over(size_t n, const Terms& terms) {
  std::array<std::array<double, 4>, kSums> lanes{};
  for (size_t i = 0; i < n; i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      const std::array<double, kSums> term = terms(i + lane);
      for (size_t s = 0; s < kSums; ++s) lanes[s][lane] += term[s];
    }
  }
  std::array<double, kSums> out;
  for (size_t s = 0; s < kSums; ++s) {
    out[s] = (lanes[s][0] + lanes[s][1]) + (lanes[s][2] + lanes[s][3]);
  }
  return out;
}

// x ~ scale * q - min, q in 0..top, min >= 0 unless `free_min`; 32 elements. Grid of scales around
// the range's own, each followed by the weighted least-squares solution for its codes, twice; the
// best weighted square error wins.
struct Affine {
  float scale = 0, min = 0;
};
Affine search_affine(std::span<const float> x, std::span<const float> w, int top, bool free_min) {
  const auto [lowest, highest] = std::ranges::minmax(x);
  const float low = free_min ? lowest : std::min(lowest, 0.0f);
  if (!(highest > low)) return {0.0f, -low};
  const auto [sum_w, sum_x, sum_xx] = sums_over<3>(x.size(), [&](size_t i) {
    const double v = double(x[i]), weighed = double(w[i]) * v;
    return std::array<double, 3>{double(w[i]), weighed, weighed * v};
  });
  Affine best;
  double best_error = 0;
  bool found = false;
  std::array<float, 32> q;
  for (int step = -5; step <= 15; ++step) {
    Affine a{(highest - low) / (float(top) + 0.1f * float(step)), -low};
    for (int round = 0; round < 2; ++round) {
      const float inverse = 1.0f / a.scale;
      for (size_t i = 0; i < 32; ++i) q[i] = rounded((x[i] + a.min) * inverse, 0.0f, float(top));
      const auto [sum_q, sum_qq, sum_qx] = sums_over<3>(x.size(), [&](size_t i) {
        const double weighed = double(w[i]) * double(q[i]);
        return std::array<double, 3>{weighed, weighed * double(q[i]), weighed * double(x[i])};
      });
      const double determinant = sum_w * sum_qq - sum_q * sum_q;
      if (!(determinant > 0)) break;
      double scale = (sum_w * sum_qx - sum_x * sum_q) / determinant;
      double min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
      if (!free_min && min < 0) {
        min = 0;
        scale = sum_qx / sum_qq;
      }
      if (!(scale > 0)) break;
      a = {float(scale), float(min)};
      // Of these codes; rounding anew can only lower it.
      const double error = scale * scale * sum_qq - 2 * scale * (sum_qx + min * sum_q) +
                           min * min * sum_w + 2 * min * sum_x + sum_xx;
      if (!found || error < best_error) {
        found = true;
        best_error = error;
        best = a;
      }
    }
  }
  return found ? best : Affine{(highest - low) / float(top), -low};
}

// x ~ scale * q, q in -bottom..bottom-1; the scale's sign puts the largest magnitude on the longer
// side. At most 32 elements.
float search_symmetric(std::span<const float> x, std::span<const float> w, int bottom) {
  float extreme = 0;
  for (float v : x) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  if (extreme == 0) return 0;
  float best = 0;
  double best_gain = 0;  // of the least-squares scale: (sum w q x)^2 / sum w q^2, to be maximised
  std::array<float, 32> q;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(float(bottom) + 0.1f * float(step)) / extreme;
    for (size_t i = 0; i < x.size(); ++i) {
      q[i] = rounded(x[i] * inverse, float(-bottom), float(bottom - 1));
    }
    const auto [sum_qx, sum_qq] = sums_over<2>(x.size(), [&](size_t i) {
      const double weighed = double(w[i]) * double(q[i]);
      return std::array<double, 2>{weighed * double(x[i]), weighed * double(q[i])};
    });
    if (sum_qq > 0 && sum_qx * sum_qx > best_gain * sum_qq) {
      best_gain = sum_qx * sum_qx / sum_qq;
      best = float(sum_qx / sum_qq);
    }
  }
  return best;
}

// Weights of a sub-block: large elements matter more, as they meet large activations; times the
// importance.
void weigh(std::span<const float> x, std::span<const float> importance, std::span<float> w) {
  double sum = 0;
  for (float v : x) sum += double(v) * double(v);
  const float mean = std::sqrt(float(sum / double(x.size())));
  for (size_t i = 0; i < x.size(); ++i) {
    w[i] = importance.empty() ? mean + std::fabs(x[i])
                              : importance[i] * std::sqrt(mean * mean + x[i] * x[i]);
    if (!(w[i] > 0)) w[i] = 1e-30f;
  }
}

// ---- floats to blocks

// The codes of a 32-element block with values 0..15 or 0..31.
void put_codes(const std::array<int, 32>& q, bool five, std::byte* to) {
  if (five) {
    uint32_t high = 0;
    for (size_t j = 0; j < 32; ++j) high |= uint32_t(q[j] >> 4) << j;
    std::memcpy(to, &high, 4);
    to += 4;
  }
  for (size_t j = 0; j < 16; ++j) to[j] = std::byte((q[j] & 15) | (q[j + 16] & 15) << 4);
}

void quantise_q8(std::span<const float> x, std::byte* to) {
  float largest = 0;
  for (float v : x) largest = std::max(largest, std::fabs(v));
  const float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  put_half(to, d);
  for (size_t j = 0; j < 32; ++j) {
    const float scaled = x[j] * inverse;
    to[2 + j] = std::byte(std::fabs(scaled) <= 127.5f ? int(std::roundf(scaled)) : 0);
  }
}

void quantise_small(Type type, std::span<const float> x, std::span<const float> importance,
                    std::byte* to) {
  const bool five = type == Type::kQ5_0 || type == Type::kQ5_1;
  const bool minimum = type == Type::kQ4_1 || type == Type::kQ5_1;
  const int top = five ? 31 : 15;
  std::array<float, 32> w;
  if (!importance.empty()) weigh(x, importance, w);
  float d = 0, m = 0, shift = 0;
  if (minimum) {
    if (importance.empty()) {
      const auto [low, high] = std::ranges::minmax(x);
      d = (high - low) / float(top);
      m = low;
    } else {
      const Affine a = search_affine(x, w, top, true);
      d = a.scale;
      m = -a.min;
    }
    shift = 0.5f;
  } else {
    const int bottom = five ? 16 : 8;
    if (importance.empty()) {
      float extreme = 0;
      for (float v : x) {
        if (std::fabs(v) > std::fabs(extreme)) extreme = v;
      }
      d = extreme / float(-bottom);
    } else {
      d = search_symmetric(x, w, bottom);
    }
    shift = float(bottom) + 0.5f;
  }
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  std::array<int, 32> q;
  for (size_t j = 0; j < 32; ++j) {
    const float scaled = (minimum ? (x[j] - m) * inverse : x[j] * inverse) + shift;
    q[j] = scaled >= 0 ? int(std::min(scaled, float(top))) : 0;  // truncation; NaN gives 0
  }
  put_half(to, d);
  if (minimum) put_half(to + 2, m);
  put_codes(q, five, to + (minimum ? 4 : 2));
}

void quantise_k45(bool five, std::span<const float> x, std::span<const float> importance,
                  std::byte* to) {
  const int top = five ? 31 : 15;
  std::array<Affine, 8> found;
  std::array<float, 32> w;
  float largest_scale = 0, largest_min = 0;
  for (size_t s = 0; s < 8; ++s) {
    weigh(x.subspan(32 * s, 32), importance.empty() ? importance : importance.subspan(32 * s, 32),
          w);
    found[s] = search_affine(x.subspan(32 * s, 32), w, top, false);
    largest_scale = std::max(largest_scale, found[s].scale);
    largest_min = std::max(largest_min, found[s].min);
  }
  put_half(to, largest_scale / 63.0f);
  put_half(to + 2, largest_min / 63.0f);
  const Reader block{to};
  const float d = block.half(0), dmin = block.half(2);
  std::array<ScaleMin, 8> pairs;
  for (size_t s = 0; s < 8; ++s) {
    pairs[s] = {d > 0 ? clamped(found[s].scale / d, 0, 63) : 0,
                dmin > 0 ? clamped(found[s].min / dmin, 0, 63) : 0};
  }
  std::memset(to + 4, 0, size_t(five ? 172 : 140));
  pack_scale_mins(pairs, to + 4);
  std::byte* nibbles = to + (five ? 48 : 16);
  for (int j = 0; j < 256; ++j) {
    const int s = j / 32, l = j % 32;
    const float scale = d * float(pairs[size_t(s)].scale), min = dmin * float(pairs[size_t(s)].min);
    const int q = scale > 0 ? clamped((x[size_t(j)] + min) / scale, 0, top) : 0;
    nibbles[32 * (s / 2) + l] |= std::byte((q & 15) << (4 * (s % 2)));
    if (five) to[16 + l] |= std::byte((q >> 4) << s);
  }
}

void quantise_k6(std::span<const float> x, std::span<const float> importance, std::byte* to) {
  std::array<float, 16> scales, w;
  float extreme = 0;
  for (size_t s = 0; s < 16; ++s) {
    weigh(x.subspan(16 * s, 16), importance.empty() ? importance : importance.subspan(16 * s, 16),
          w);
    scales[s] = search_symmetric(x.subspan(16 * s, 16), w, 32);
    if (std::fabs(scales[s]) > std::fabs(extreme)) extreme = scales[s];
  }
  std::memset(to, 0, 210);
  put_half(to + 208, extreme / -128.0f);
  const float d = Reader{to}.half(208);
  for (size_t s = 0; s < 16; ++s)
    to[192 + s] = std::byte(d != 0 ? clamped(scales[s] / d, -128, 127) : 0);
  for (int j = 0; j < 256; ++j) {
    const float scale = d * float(Reader{to}.i8(192 + j / 16));
    const int q = 32 + (scale != 0 ? clamped(x[size_t(j)] / scale, -32, 31) : 0);
    const int half = j / 128, quarter = j % 128 / 32, l = j % 32;
    to[64 * half + 32 * (quarter % 2) + l] |= std::byte((q & 15) << (4 * (quarter / 2)));
    to[128 + 32 * half + l] |= std::byte((q >> 4) << (2 * quarter));
  }
}

void check_sizes(Type type, size_t raw, size_t elements) {
  if (raw == row_bytes(type, int64_t(elements))) return;
  throw Error(ErrorKind::kBadFile, std::string(info(type).name) + " row: " + std::to_string(raw) +
                                       " bytes do not hold " + std::to_string(elements) +
                                       " elements");
}

}  // namespace

void dequantise(Type type, std::span<const std::byte> raw, std::span<float> out) {
  check_sizes(type, raw.size(), out.size());
  const size_t bytes = size_t(info(type).block_bytes), block = size_t(info(type).block);
  for (size_t i = 0; i < out.size() / block; ++i) {
    const Reader from{raw.data() + i * bytes};
    float* to = out.data() + i * block;
    switch (type) {
      case Type::kF32:
        *to = std::bit_cast<float>(from.word(0));
        break;
      case Type::kF16:
        *to = from.half(0);
        break;
      case Type::kBF16:
        *to = bfloat16_to_float(uint16_t(from.u8(0) | from.u8(1) << 8));
        break;
      case Type::kQ4_K:
        dequantise_k45(false, from, to);
        break;
      case Type::kQ5_K:
        dequantise_k45(true, from, to);
        break;
      case Type::kQ6_K:
        dequantise_k6(from, to);
        break;
      default:
        dequantise_small(type, from, to);
    }
  }
}

void quantise(Type type, std::span<const float> x, std::span<std::byte> raw,
              std::span<const float> importance) {
  check_sizes(type, raw.size(), x.size());
  if (!importance.empty() && importance.size() != x.size()) {
    throw Error(ErrorKind::kUsage, "quantise: " + std::to_string(importance.size()) +
                                       " importances for " + std::to_string(x.size()) +
                                       " elements");
  }
  const size_t bytes = size_t(info(type).block_bytes), block = size_t(info(type).block);
  for (size_t i = 0; i < x.size() / block; ++i) {
    const std::span<const float> from = x.subspan(i * block, block);
    const std::span<const float> weights =
        importance.empty() ? importance : importance.subspan(i * block, block);
    std::byte* to = raw.data() + i * bytes;
    const auto put16 = [&](uint16_t h) { std::memcpy(to, &h, 2); };
    switch (type) {
      case Type::kF32:
        std::memcpy(to, from.data(), 4);
        break;
      case Type::kF16:
        put16(float_to_half(from[0]));
        break;
      case Type::kBF16:
        put16(float_to_bfloat16(from[0]));
        break;
      case Type::kQ4_K:
        quantise_k45(false, from, weights, to);
        break;
      case Type::kQ5_K:
        quantise_k45(true, from, weights, to);
        break;
      case Type::kQ6_K:
        quantise_k6(from, weights, to);
        break;
      case Type::kQ8_0:
        quantise_q8(from, to);
        break;
      default:
        quantise_small(type, from, weights, to);
    }
  }
}

}  // namespace tutti::tensor
