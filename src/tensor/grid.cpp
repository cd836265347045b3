#include "tensor/grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/half.h"

namespace tutti::tensor {
namespace {

constexpr int kBlock = 32;  // of the block types with one scale and no minimum

[[noreturn]] void wrong(const std::string& what) {
  throw Error(ErrorKind::kUsage,
              "grid of weights: " + what + "; the matrix was put together wrongly");
}

bool is_half(float x) { return half_to_float(float_to_half(x)) == x; }

// Whether every block of 32 inputs has one group.
bool blocks_have_one_group(const Grid& grid) {
  for (int k = 0; k < grid.in; ++k) {
    if (grid.group_of(k) != grid.group_of(k - k % kBlock)) return false;
  }
  return true;
}

// One block of `values` (code - zero), as the types hold it.
void put_block(Type type, float scale, const int (&values)[kBlock], std::byte* to) {
  const uint16_t half = float_to_half(scale);
  std::memcpy(to, &half, 2);
  to += 2;
  if (type == Type::kQ8_0) {
    for (int i = 0; i < kBlock; ++i) to[i] = std::byte(uint8_t(int8_t(values[i])));
    return;
  }
  const int offset = type == Type::kQ4_0 ? 8 : 16;
  if (type == Type::kQ5_0) {
    uint32_t fifth = 0;
    for (int i = 0; i < kBlock; ++i) fifth |= uint32_t((values[i] + offset) >> 4) << i;
    std::memcpy(to, &fifth, 4);
    to += 4;
  }
  for (int i = 0; i < kBlock / 2; ++i) {
    const int low = (values[i] + offset) & 15, high = (values[i + kBlock / 2] + offset) & 15;
    to[i] = std::byte(low | high << 4);
  }
}

// The block type that holds the grid, or F32.
Type exact_type(const Grid& grid) {
  if (grid.in % kBlock != 0 || !blocks_have_one_group(grid)) return Type::kF32;
  if (!std::ranges::all_of(grid.scales, is_half)) return Type::kF32;
  const bool symmetric =
      std::ranges::all_of(grid.zeros, [&](int z) { return z == 1 << (grid.bits - 1); });
  if (grid.bits == 4) return symmetric ? Type::kQ4_0 : Type::kQ5_0;
  if (symmetric) return Type::kQ8_0;
  for (int k = 0; k < grid.in; ++k) {
    for (int o = 0; o < grid.out; ++o) {
      const int value = int(grid.codes[size_t(k) * size_t(grid.out) + size_t(o)]) -
                        grid.zero(grid.group_of(k), o);
      if (value < -128 || value > 127) return Type::kF32;
    }
  }
  return Type::kQ8_0;
}

}  // namespace

std::vector<float> Grid::dequantised() const {
  std::vector<float> w(size_t(out) * size_t(in));
  for (int k = 0; k < in; ++k) {
    const int g = group_of(k);
    for (int o = 0; o < out; ++o) {
      const int value = int(codes[size_t(k) * size_t(out) + size_t(o)]) - zero(g, o);
      w[size_t(o) * size_t(in) + size_t(k)] =
          float(value) * scales[size_t(g) * size_t(out) + size_t(o)];
    }
  }
  return w;
}

void check_grid(const Grid& grid) {
  if (grid.in < 1 || grid.out < 1) wrong("no inputs or outputs");
  if (grid.bits != 4 && grid.bits != 8)
    wrong(std::to_string(grid.bits) + " bits are neither 4 nor 8");
  if (grid.group < 1) wrong("groups of " + std::to_string(grid.group) + " inputs");
  const size_t elements = size_t(grid.in) * size_t(grid.out);
  const size_t scales = size_t(grid.group_count()) * size_t(grid.out);
  if (grid.codes.size() != elements) wrong("not one code for each weight");
  if (grid.scales.size() != scales) wrong("not one scale for each group and output");
  if (!grid.zeros.empty() && grid.zeros.size() != scales) wrong("not one zero for each scale");
  if (!grid.groups.empty() && grid.groups.size() != size_t(grid.in))
    wrong("not one group for each input");
  const int codes = 1 << grid.bits;
  if (std::ranges::any_of(grid.codes, [&](uint8_t q) { return q >= codes; }))
    wrong("a code beyond its bits");
  if (std::ranges::any_of(grid.zeros, [&](int z) { return z > codes; }))
    wrong("a zero beyond its bits");
  for (const int32_t g : grid.groups) {
    if (g < 0 || g >= grid.group_count()) wrong("group " + std::to_string(g) + " does not exist");
  }
}

StoredGrid stored(const Grid& grid) {
  check_grid(grid);
  StoredGrid to;
  to.type = exact_type(grid);
  const size_t row = row_bytes(to.type, grid.in);
  to.rows.resize(row * size_t(grid.out));
  if (to.type == Type::kF32) {
    const std::vector<float> w = grid.dequantised();
    std::memcpy(to.rows.data(), w.data(), to.rows.size());
    return to;
  }
  const auto block_bytes = size_t(info(to.type).block_bytes);
  for (int first = 0; first < grid.in; first += kBlock) {
    const int g = grid.group_of(first);
    for (int o = 0; o < grid.out; ++o) {
      int values[kBlock];
      const int zero = grid.zero(g, o);
      for (int i = 0; i < kBlock; ++i)
        values[i] = int(grid.codes[size_t(first + i) * size_t(grid.out) + size_t(o)]) - zero;
      put_block(to.type, grid.scales[size_t(g) * size_t(grid.out) + size_t(o)], values,
                to.rows.data() + size_t(o) * row + size_t(first / kBlock) * block_bytes);
    }
  }
  return to;
}

uint8_t grid_code(double w, double scale, int bits) {
  const int zero = 1 << (bits - 1);
  if (scale == 0) return uint8_t(zero);
  return uint8_t(std::clamp(std::round(w / scale) + zero, 0.0, double(2 * zero - 1)));
}

Grid round_to_nearest(std::span<const float> w, int out, int in, int bits, int group) {
  Grid grid;
  grid.in = in;
  grid.out = out;
  grid.bits = bits;
  grid.group = group;
  grid.codes.resize(size_t(in) * size_t(out));
  grid.scales.resize(size_t(grid.group_count()) * size_t(out));
  for (int o = 0; o < out; ++o) {
    const std::span<const float> row = w.subspan(size_t(o) * size_t(in), size_t(in));
    for (int first = 0; first < in; first += group) {
      const int last = std::min(in, first + group);
      float most = 0;
      for (int k = first; k < last; ++k) most = std::max(most, std::fabs(row[size_t(k)]));
      const float scale = half_to_float(float_to_half(2 * most / float((1 << bits) - 1)));
      grid.scales[size_t(first / group) * size_t(out) + size_t(o)] = scale;
      for (int k = first; k < last; ++k)
        grid.codes[size_t(k) * size_t(out) + size_t(o)] = grid_code(row[size_t(k)], scale, bits);
    }
  }
  return grid;
}

}  // namespace tutti::tensor
