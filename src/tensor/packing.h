// Inside the room: how a tile of 16 outputs lies in memory. A quantised tile is a sequence of
// units, each the quants of one or two blocks and then their scales: one stream of ascending
// addresses, which the hardware's prefetcher follows without help (35 GB/s on one core of Zen 4
// where a stream of quants and one of scales, asked for by instructions, made 21), cut so that
// every 64-byte load is aligned:
//   quants  sub-blocks of 32 k, each a few chunks of 64 bytes;
//           byte 4*o + i of a chunk belongs to output o and element i of a group of four
//           consecutive k (the operand order of VNNI), and group g of 8 stands
//             8-bit types:  in chunk g, as value + 128
//             the others:   in chunk g % 4, low nibble for g < 4, else high nibble; then
//             5-bit types:  the fifth bit of group g is bit g of chunk 4
//             6-bit types:  the upper two bits of group g are bits 2*(g % 4), +1 of chunk 4 + g / 4
//   scales  a record for each block:
//           blocks of 32: f16 d[16], then f16 m[16] for types with a minimum
//           Q4_K, Q5_K:   f16 d[16], f16 dmin[16], u8 scale[4][16][2], u8 min[4][16][2]
//           Q6_K:         f16 d[16], i8 scale[8][16][2], 32 zeros
//           where [p][o][j] is sub-block 2*p + j (of 32 k; of 16 k for Q6_K) of output o.
// The last unit may lack its second block, whose place is zeros. Dense tiles are [in][16] in their
// own width. Every tile is padded with zeros to a multiple of 64 bytes. Tiles of the class w8a8-row
// are [in / 4] chunks as those of 8-bit types, then f32 scale[16]; tiles of bf16-dot are [(in + 1)
// / 2] chunks of 64 bytes, where word o holds elements 2i and 2i + 1 (upper half) of output o, zero
// padded. All functions are static: each instruction set's file keeps its own copy.
#pragma once

#include <cstddef>

#include "tensor/type.h"

namespace tutti::tensor {

struct PackedShape {
  int bits;          // 4, 5, 6 or 8; 0 for dense types
  int block;         // elements that share a record of scales; 1 for dense types
  int sub_bytes;     // bytes of 32 k of 16 outputs; of one k for dense types
  int record_bytes;  // bytes of a record of scales
  int offset;        // the stored quant is the value + offset
  bool minimum;      // records hold minima

  constexpr int subs() const { return block / 32; }  // sub-blocks of a block
  constexpr int block_bytes() const { return subs() * sub_bytes + record_bytes; }
  constexpr int unit() const { return block_bytes() % 64 == 0 ? 1 : 2; }  // blocks of a unit
  constexpr int unit_bytes() const { return unit() * block_bytes(); }
};

static constexpr PackedShape packed_shape(Type type) {
  switch (type) {
    case Type::kQ4_0:
      return {4, 32, 256, 32, 8, false};
    case Type::kQ4_1:
      return {4, 32, 256, 64, 0, true};
    case Type::kQ5_0:
      return {5, 32, 320, 32, 16, false};
    case Type::kQ5_1:
      return {5, 32, 320, 64, 0, true};
    case Type::kQ8_0:
      return {8, 32, 512, 32, 128, false};
    case Type::kQ4_K:
      return {4, 256, 256, 320, 0, true};
    case Type::kQ5_K:
      return {5, 256, 320, 320, 0, true};
    case Type::kQ6_K:
      return {6, 256, 384, 320, 32, false};
    case Type::kF16:
    case Type::kBF16:
      return {0, 1, 32, 0, 0, false};
    default:
      return {0, 1, 64, 0, 0, false};
  }
}

// Where in a quantised tile, or in a panel of one that begins with a unit, sub-block `s` lies, and
// the record of block `b`.
static constexpr size_t packed_sub(PackedShape p, int s) {
  const int subs = p.unit() * p.subs();
  return size_t(s / subs) * size_t(p.unit_bytes()) +
         size_t(p.unit() * p.record_bytes + s % subs * p.sub_bytes);
}
static constexpr size_t packed_record(PackedShape p, int b) {
  return size_t(b / p.unit()) * size_t(p.unit_bytes()) + size_t(b % p.unit() * p.record_bytes);
}

// Bytes of a tile before its first padding.
static constexpr size_t packed_whole_bytes(PackedShape p, int in) {
  if (p.bits == 0) return size_t(in) * size_t(p.sub_bytes);
  if (p.bits == 6) return 0;
  return size_t(in / (p.block * p.unit())) * size_t(p.unit_bytes());
}

static constexpr size_t packed_tile_bytes(PackedShape p, int in) {
  if (p.bits == 0) return (size_t(in) * size_t(p.sub_bytes) + 63) / 64 * 64;
  const int unit = p.block * p.unit();
  return size_t((in + unit - 1) / unit) * size_t(p.unit_bytes());
}

// Offset of the scales in a tile of w8a8-row, and its size.
static constexpr size_t row8_scales(int in) { return size_t(in) * 16; }
static constexpr size_t row8_tile_bytes(int in) { return row8_scales(in) + 64; }
static constexpr size_t bf16_tile_bytes(int in) { return size_t((in + 1) / 2) * 64; }

}  // namespace tutti::tensor
