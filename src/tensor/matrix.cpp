#include "tensor/matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "base/hash.h"
#include "tensor/packing.h"
#include "tensor/quantise.h"

namespace tutti::tensor {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

uint32_t word(const std::byte* p) {
  uint32_t w;
  std::memcpy(&w, p, sizeof w);
  return w;
}
void put_word(std::byte* p, uint32_t w) { std::memcpy(p, &w, sizeof w); }
uint8_t at(const std::byte* p, int i) { return uint8_t(p[i]); }
void copy_half(std::byte* to, const std::byte* from) { std::memcpy(to, from, 2); }

constexpr uint32_t kLowNibbles = 0x0f0f0f0fu;

// Eight words of 4 values < 16 each (groups of consecutive k) -> nibbles of chunks 0..3 of output
// o.
void put_nibbles(std::byte* sub, int o, const uint32_t (&groups)[8]) {
  for (int c = 0; c < 4; ++c) put_word(sub + 64 * c + 4 * o, groups[c] | groups[c + 4] << 4);
}

// In the 32-element types byte j of the nibbles holds elements j and j + 16: our order already.
void copy_nibbles(std::byte* sub, int o, const std::byte* qs) {
  for (int c = 0; c < 4; ++c) put_word(sub + 64 * c + 4 * o, word(qs + 4 * c));
}

// Bit 4*g + i of `bits` becomes bit g of byte i.
uint32_t transpose_fifth_bits(uint32_t bits) {
  uint32_t plane = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t x = (bits >> i) & 0x11111111u;
    x = (x | x >> 3) & 0x03030303u;
    x = (x | x >> 6) & 0x000f000fu;
    x = (x | x >> 12) & 0xffu;
    plane |= x << (8 * i);
  }
  return plane;
}

// One output's blocks of 32, into every record and sub-block of its tile.
void pack_small(Type type, const std::byte* row, int blocks, int o, std::byte* tile) {
  const PackedShape shape = packed_shape(type);
  const int bytes = info(type).block_bytes;
  for (int b = 0; b < blocks; ++b) {
    const std::byte* from = row + size_t(b) * size_t(bytes);
    std::byte* sub = tile + packed_sub(shape, b);
    std::byte* record = tile + packed_record(shape, b);
    copy_half(record + 2 * o, from);
    from += 2;
    if (shape.minimum) {
      copy_half(record + 32 + 2 * o, from);
      from += 2;
    }
    if (shape.bits == 8) {
      for (int g = 0; g < 8; ++g) put_word(sub + 64 * g + 4 * o, word(from + 4 * g) ^ 0x80808080u);
      continue;
    }
    if (shape.bits == 5) {
      put_word(sub + 256 + 4 * o, transpose_fifth_bits(word(from)));
      from += 4;
    }
    copy_nibbles(sub, o, from);
  }
}

// Q4_K: d, dmin, 12 bytes of scales, 128 of nibbles; Q5_K has 32 bytes of fifth bits before the
// nibbles.
void pack_k45(bool five, const std::byte* from, int o, std::byte* quants, std::byte* record) {
  const PackedShape shape = packed_shape(five ? Type::kQ5_K : Type::kQ4_K);
  copy_half(record + 2 * o, from);
  copy_half(record + 32 + 2 * o, from + 2);
  const std::byte* packed = from + 4;
  for (int j = 0; j < 8; ++j) {
    const int scale =
        j < 4 ? at(packed, j) & 63 : (at(packed, j + 4) & 15) | (at(packed, j - 4) >> 6) << 4;
    const int min =
        j < 4 ? at(packed, j + 4) & 63 : at(packed, j + 4) >> 4 | (at(packed, j) >> 6) << 4;
    const int place = 32 * (j / 2) + 2 * o + j % 2;
    record[64 + place] = std::byte(scale);
    record[192 + place] = std::byte(min);
  }
  const std::byte* high = from + 16;
  const std::byte* nibbles = five ? from + 48 : from + 16;
  for (int s = 0; s < 8; ++s) {
    std::byte* sub = quants + size_t(s) * size_t(shape.sub_bytes);
    uint32_t groups[8], plane = 0;
    for (int g = 0; g < 8; ++g) {
      groups[g] = word(nibbles + 32 * (s / 2) + 4 * g) >> (4 * (s % 2)) & kLowNibbles;
      if (five) plane |= (word(high + 4 * g) >> s & 0x01010101u) << g;
    }
    put_nibbles(sub, o, groups);
    if (five) put_word(sub + 256 + 4 * o, plane);
  }
}

// Q6_K: 128 bytes of nibbles, 64 of upper pairs of bits, 16 scales, d.
void pack_k6(const std::byte* from, int o, std::byte* quants, std::byte* record) {
  const PackedShape shape = packed_shape(Type::kQ6_K);
  copy_half(record + 2 * o, from + 208);
  for (int j = 0; j < 16; ++j) record[32 + 32 * (j / 2) + 2 * o + j % 2] = from[192 + j];
  for (int s = 0; s < 8; ++s) {
    const int half = s / 4, quarter = s % 4;
    std::byte* sub = quants + size_t(s) * size_t(shape.sub_bytes);
    const std::byte* nibbles = from + 64 * half + 32 * (quarter % 2);
    const std::byte* pairs = from + 128 + 32 * half;
    uint32_t groups[8], planes[2] = {0, 0};
    for (int g = 0; g < 8; ++g) {
      groups[g] = word(nibbles + 4 * g) >> (4 * (quarter / 2)) & kLowNibbles;
      planes[g / 4] |= (word(pairs + 4 * g) >> (2 * quarter) & 0x03030303u) << (2 * (g % 4));
    }
    put_nibbles(sub, o, groups);
    put_word(sub + 256 + 4 * o, planes[0]);
    put_word(sub + 320 + 4 * o, planes[1]);
  }
}

void pack_quantised(Type type, const std::byte* row, int in, int o, std::byte* tile) {
  const PackedShape shape = packed_shape(type);
  if (shape.block == 32) return pack_small(type, row, in / 32, o, tile);
  const int bytes = info(type).block_bytes;
  for (int b = 0; b < in / 256; ++b) {
    const std::byte* from = row + size_t(b) * size_t(bytes);
    std::byte* quants = tile + packed_sub(shape, 8 * b);
    std::byte* record = tile + packed_record(shape, b);
    if (type == Type::kQ6_K) {
      pack_k6(from, o, quants, record);
    } else {
      pack_k45(type == Type::kQ5_K, from, o, quants, record);
    }
  }
}

// rows: up to 16 rows of `in` elements of Word; absent ones are zeros already.
template <class Word>
void pack_dense(const std::byte* rows, size_t stride, int count, int in, std::byte* tile) {
  constexpr int kStrip =
      16;  // k's per pass, so that reads and writes stay within a few cache lines
  for (int k0 = 0; k0 < in; k0 += kStrip) {
    const int end = std::min(in, k0 + kStrip);
    for (int o = 0; o < count; ++o) {
      const std::byte* row = rows + size_t(o) * stride;
      for (int k = k0; k < end; ++k) {
        std::memcpy(tile + (size_t(k) * kTileOutputs + size_t(o)) * sizeof(Word),
                    row + size_t(k) * sizeof(Word), sizeof(Word));
      }
    }
  }
}

// int8 with one scale: d = amax / 127, q = round_even(w * (127 / amax)), as activations are (see
// QuantisedRows).
void pack_row8(const float* row, int in, int o, std::byte* tile) {
  uint32_t bits = 0;
  for (int k = 0; k < in; ++k) bits = std::max(bits, std::bit_cast<uint32_t>(row[k]) & 0x7fffffffu);
  const float largest = std::bit_cast<float>(bits), inverse = 127.0f / largest;
  const bool finite = bits < 0x7f800000u;
  const bool zero = !finite || !(inverse < std::numeric_limits<float>::infinity());
  const float scale = !finite ? std::numeric_limits<float>::quiet_NaN()
                      : zero  ? 0.0f
                              : largest / 127.0f;
  for (int k = 0; k < in; ++k) {
    const float q = zero ? 0.0f : std::clamp(std::nearbyintf(row[k] * inverse), -127.0f, 127.0f);
    tile[size_t(k / 4) * 64 + size_t(4 * o + k % 4)] = std::byte(int(q) + 128);
  }
  std::memcpy(tile + row8_scales(in) + 4 * o, &scale, 4);
}

void pack_bf16(const float* row, int in, int o, std::byte* tile) {
  for (int k = 0; k < in; ++k) {
    const uint16_t h = float_to_bfloat16(row[k]);
    std::memcpy(tile + size_t(k / 2) * 64 + size_t(4 * o + 2 * (k % 2)), &h, 2);
  }
}

// What `arithmetic` means for weights stored as `type`.
Arithmetic in_effect(Type type, int in, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kW8A8Row && !fits_w8a8(in)) arithmetic = Arithmetic::kExactQ8;
  if (arithmetic == Arithmetic::kExactQ8 && !info(type).quantised) return Arithmetic::kExactF32;
  return arithmetic;
}

Type packed_type(Type type, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kBf16Dot) return Type::kBF16;
  const bool widened =
      info(type).quantised && type != Type::kQ4_0 && arithmetic == Arithmetic::kExactF32;
  return widened ? Type::kF32 : type;
}

size_t tile_bytes_of(Type type, int in, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kW8A8Row) return row8_tile_bytes(in);
  if (arithmetic == Arithmetic::kBf16Dot) return bf16_tile_bytes(in);
  return packed_tile_bytes(packed_shape(type), in);
}

}  // namespace

std::string_view name(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kExactQ8:
      return "exact-q8";
    case Arithmetic::kExactF32:
      return "exact-f32";
    case Arithmetic::kBf16Dot:
      return "bf16-dot";
    case Arithmetic::kW8A8Row:
      return "w8a8-row";
  }
  return "?";
}

std::optional<Arithmetic> find_arithmetic(std::string_view wanted) {
  for (const Arithmetic a : kArithmetics) {
    if (name(a) == wanted) return a;
  }
  return std::nullopt;
}

AlignedBytes::AlignedBytes(size_t size, bool zeroed) : size_(size) {
  if (size == 0) return;
  void* memory = nullptr;
  if (posix_memalign(&memory, size >= kHugePage ? kHugePage : 64, size) != 0) {
    throw Error(ErrorKind::kLimit, "memory: " + std::to_string(size >> 20) +
                                       " MiB are not to be had; use a smaller model or context");
  }
  if (size >= kHugePage) madvise(memory, size / kHugePage * kHugePage, MADV_HUGEPAGE);  // a hint
  if (zeroed) std::memset(memory, 0, size);
  data_.reset(static_cast<std::byte*>(memory));
}

void AlignedBytes::Free::operator()(std::byte* p) const { std::free(p); }

std::shared_ptr<std::byte> WeightMemory::take(size_t size) {
  constexpr size_t kPiece = size_t(64) << 20;  // what is left of a piece is never touched
  size = (size + 63) / 64 * 64;
  if (!piece_ || piece_->size() - used_ < size) {
    piece_ = std::make_shared<AlignedBytes>(std::max(size, kPiece), false);
    used_ = 0;
  }
  const size_t at = std::exchange(used_, used_ + size);
  return {piece_, piece_->data() + at};
}

Matrix Matrix::shaped(Type type, int out, int in, Arithmetic arithmetic) {
  if (out <= 0 || in <= 0) {
    throw Error(ErrorKind::kBadFile, "matrix of " + std::to_string(out) + " x " +
                                         std::to_string(in) + ": both sides must be positive");
  }
  row_bytes(type, in);  // throws when `in` is no multiple of the block
  Matrix matrix;
  matrix.arithmetic_ = in_effect(type, in, arithmetic);
  matrix.type_ = packed_type(type, matrix.arithmetic_);
  matrix.out_ = out;
  matrix.in_ = in;
  // At most 2^31 / 16 tiles of 2^31 * 64 bytes: no overflow of 64 bits.
  matrix.tile_bytes_ = tile_bytes_of(matrix.type_, in, matrix.arithmetic_);
  return matrix;
}

Matrix Matrix::allocate(Type type, int out, int in, Arithmetic arithmetic, WeightMemory* memory) {
  Matrix matrix = shaped(type, out, in, arithmetic);
  std::shared_ptr<std::byte> tiles;
  if (memory) {
    tiles = memory->take(matrix.bytes());
  } else {
    auto own = std::make_shared<AlignedBytes>(matrix.bytes(), false);
    tiles = {own, own->data()};
  }
  matrix.own_ = tiles.get();
  matrix.data_ = std::move(tiles);
  return matrix;
}

void Matrix::pack_tiles(Type type, std::span<const std::byte> raw, int first, int last) {
  first = std::max(first, 0);
  if (!own_) {
    throw Error(ErrorKind::kUsage, "matrix: has no memory of its own to pack into");
  }
  pack_tiles(type, raw, first, last, own_ + size_t(first) * tile_bytes_);
}

void Matrix::pack_tiles(Type type, std::span<const std::byte> raw, int first, int last,
                        std::byte* to) const {
  const size_t stride = row_bytes(type, in_);
  if (raw.size() / stride != size_t(out_) || raw.size() % stride != 0) {
    throw Error(ErrorKind::kBadFile, "matrix of " + std::to_string(out_) + " x " +
                                         std::to_string(in_) + " " + std::string(info(type).name) +
                                         ": " + std::to_string(raw.size()) + " bytes instead of " +
                                         std::to_string(stride) + " per row");
  }
  if (packed_type(type, arithmetic_) != type_) {
    throw Error(ErrorKind::kUsage, "matrix: packing " + std::string(info(type).name) +
                                       " into one of " + std::string(info(type_).name));
  }
  const bool row8 = arithmetic_ == Arithmetic::kW8A8Row, bf16 = arithmetic_ == Arithmetic::kBf16Dot;
  const bool floating = row8 || bf16 || type != type_;  // packed from fp32
  std::vector<float> floats(floating ? size_t(in_) * kTileOutputs : 0);
  const size_t used = row8 || bf16 ? tile_bytes_ : packed_whole_bytes(packed_shape(type_), in_);
  for (int t = std::max(first, 0); t < std::min(last, tiles()); ++t) {
    const int count = std::min(kTileOutputs, out_ - t * kTileOutputs);
    const std::byte* rows = raw.data() + size_t(t) * kTileOutputs * stride;
    std::byte* tile = to + size_t(t - first) * tile_bytes_;
    // Padding too: packed bytes are hashed and kept in files.
    const size_t zeros = count < kTileOutputs || bf16 ? 0 : used;
    std::memset(tile + zeros, 0, tile_bytes_ - zeros);
    if (floating) {
      dequantise(type, {rows, size_t(count) * stride},
                 {floats.data(), size_t(count) * size_t(in_)});
    }
    if (row8 || bf16) {
      for (int o = 0; o < count; ++o)
        (row8 ? pack_row8 : pack_bf16)(floats.data() + size_t(o) * size_t(in_), in_, o, tile);
    } else if (floating) {
      pack_dense<float>(reinterpret_cast<const std::byte*>(floats.data()),
                        size_t(in_) * sizeof(float), count, in_, tile);
    } else if (!quantised()) {
      if (type == Type::kF32) pack_dense<float>(rows, stride, count, in_, tile);
      if (type != Type::kF32) pack_dense<uint16_t>(rows, stride, count, in_, tile);
    } else {
      for (int o = 0; o < count; ++o) pack_quantised(type, rows + size_t(o) * stride, in_, o, tile);
    }
  }
}

Matrix Matrix::pack(Type type, std::span<const std::byte> raw, int out, int in,
                    Arithmetic arithmetic) {
  Matrix matrix = allocate(type, out, in, arithmetic);
  matrix.pack_tiles(type, raw, 0, matrix.tiles());
  return matrix;
}

uint64_t packing_fingerprint() {
  // Two tiles, the second not full, of two of the largest blocks; any weights serve.
  constexpr int kOut = kTileOutputs + 3, kIn = 512;
  std::vector<float> values(size_t(kOut) * kIn);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(int(i * 37 % 1009) - 504) / 512;
  Xxh64 hash;
  for (const Type type :
       {Type::kF32, Type::kF16, Type::kBF16, Type::kQ4_0, Type::kQ4_1, Type::kQ5_0, Type::kQ5_1,
        Type::kQ8_0, Type::kQ4_K, Type::kQ5_K, Type::kQ6_K}) {
    // Any bytes are blocks; as elements of dense types they might not be numbers.
    std::vector<std::byte> raw(kOut * row_bytes(type, kIn));
    if (info(type).quantised) {
      for (size_t i = 0; i < raw.size(); ++i) raw[i] = std::byte(i * 0x9E3779B1u >> 13);
    } else {
      quantise(type, values, raw);
    }
    const Matrix matrix = Matrix::pack(type, raw, kOut, kIn, Arithmetic::kExactQ8);
    hash.add(std::span(matrix.tile(0), matrix.bytes()));
  }
  for (const Arithmetic arithmetic : {Arithmetic::kBf16Dot, Arithmetic::kW8A8Row}) {
    const Matrix matrix =
        Matrix::pack(Type::kF32, std::as_bytes(std::span(values)), kOut, kIn, arithmetic);
    hash.add(std::span(matrix.tile(0), matrix.bytes()));
  }
  return hash.digest();
}

MatrixView view(const Matrix& matrix) {
  return {matrix.type(), matrix.out(), matrix.in(), matrix.tile_bytes(), matrix.tile(0)};
}

}  // namespace tutti::tensor
