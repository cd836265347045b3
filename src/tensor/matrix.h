// A weight matrix as the kernels want it: tiles of 16 outputs, k innermost groups interleaved so
// that one vector load holds the same k-group of 16 outputs. One layout serves every instruction
// set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "tensor/type.h"

namespace tutti::tensor {

// 64-byte aligned memory; large pieces ask for huge pages. Throws Error(kLimit) when there is none.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size, bool zeroed = true);
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

// Memory for the matrices of one model, cut from large pieces in the order of their packing: huge
// pages serve them however small each is, and what is read one after the other lies one after the
// other.
class WeightMemory {
 public:
  // `size` bytes, 64-byte aligned, contents undefined; the piece lives as long as anything cut from
  // it. Throws Error(kLimit).
  std::shared_ptr<std::byte> take(size_t size);

 private:
  std::shared_ptr<AlignedBytes> piece_;
  size_t used_ = 0;
};

inline constexpr int kTileOutputs = 16;

// How products with this matrix are computed (DESIGN: arithmetic classes). Within a class every
// level gives the same bits; between classes docs/arithmetic.md has the error table.
enum class Arithmetic : uint8_t {
  kExactQ8,   // quantised types: int8 activations, exact int32 block dots, fp32 chain over blocks
  kExactF32,  // weights widened to fp32, one fp32 fma chain over k
  kBf16Dot,   // approximate: weights and activations rounded to bf16, the chain of VDPBF16PS over k
  kW8A8Row,   // approximate: int8 with one scale per output and one per row, int32 sums over the
              // whole of k
};

inline constexpr Arithmetic kArithmetics[] = {Arithmetic::kExactQ8, Arithmetic::kExactF32,
                                              Arithmetic::kBf16Dot, Arithmetic::kW8A8Row};

// As users write it: "exact-q8", "exact-f32", "bf16-dot", "w8a8-row".
std::string_view name(Arithmetic arithmetic);
// Null when it is none of them.
std::optional<Arithmetic> find_arithmetic(std::string_view name);

// Whether a matrix with `in` inputs can be of the class w8a8-row: whole steps of 64 products, and
// their int32 sum, 127 * 127 * in at most, does not overflow.
inline constexpr bool fits_w8a8(int in) { return in % 64 == 0 && in <= 133120; }

// [out, in] weights, row-major in the file, packed here. Dense types (F32, F16, BF16) compute as
// kExactF32 where kExactQ8 is asked for, and matrices that do not fit w8a8-row as kExactQ8 would.
// With kExactF32 a quantised type is dequantised to F32 at packing, but for Q4_0: it stays packed
// and each product widens it, to the same bits. With kBf16Dot every type is rounded to BF16, with
// kW8A8Row to int8, at packing.
class Matrix {
 public:
  Matrix() = default;
  Matrix(Matrix&&) = default;
  Matrix& operator=(Matrix&&) = default;
  // `raw` holds `out` rows of row_bytes(type, in). Throws Error(kBadFile) when in is no multiple of
  // the block.
  static Matrix pack(Type type, std::span<const std::byte> raw, int out, int in,
                     Arithmetic arithmetic);
  // The same in two steps, so that a pool of workers can share the packing: memory for a matrix
  // stored as `type` (from `memory` when given), then tiles [first, last) of it. Until all are
  // packed the contents are undefined.
  static Matrix allocate(Type type, int out, int in, Arithmetic arithmetic,
                         WeightMemory* memory = nullptr);
  void pack_tiles(Type type, std::span<const std::byte> raw, int first, int last);
  // The same for memory that comes from elsewhere: a matrix without any, its tiles [first, last)
  // packed to `to`, and at last the bytes() bytes of all tiles, 64-byte aligned.
  static Matrix shaped(Type type, int out, int in, Arithmetic arithmetic);
  void pack_tiles(Type type, std::span<const std::byte> raw, int first, int last,
                  std::byte* to) const;
  void place(std::shared_ptr<const std::byte> tiles) { data_ = std::move(tiles); }

  bool empty() const { return out_ == 0; }
  Type type() const {
    return type_;
  }  // the packed type: F32 when dequantised, BF16 when rounded to it
  Arithmetic arithmetic() const {
    return arithmetic_;
  }  // in effect, which may not be the one asked for
  int out() const { return out_; }
  int in() const { return in_; }
  int tiles() const { return (out_ + kTileOutputs - 1) / kTileOutputs; }
  size_t tile_bytes() const { return tile_bytes_; }
  const std::byte* tile(int t) const { return data_.get() + size_t(t) * tile_bytes_; }
  size_t bytes() const { return tile_bytes_ * size_t(tiles()); }
  bool quantised() const { return info(type_).quantised; }
  // Elements per activation block of kExactQ8 (32, or 256 for K-quants) and of kW8A8Row (the whole
  // row); 0 for products with floating-point activations.
  int activation_block() const {
    return arithmetic_ == Arithmetic::kExactQ8   ? info(type_).block
           : arithmetic_ == Arithmetic::kW8A8Row ? in_
                                                 : 0;
  }

 private:
  Type type_ = Type::kF32;
  Arithmetic arithmetic_ = Arithmetic::kExactF32;
  int out_ = 0, in_ = 0;
  size_t tile_bytes_ = 0;
  std::shared_ptr<const std::byte> data_;
  std::byte* own_ = nullptr;  // data_ where this matrix has allocated it
};

// A hash of what packing makes of fixed rows of every type: packed weights of another program whose
// hash differs are laid out differently.
uint64_t packing_fingerprint();

// The same as plain data, for files compiled for one instruction set: they may call no inline
// member above, as the linker could keep their copy of it for everyone.
struct MatrixView {
  Type type;
  int out, in;
  size_t tile_bytes;
  const std::byte* data;  // tile t at data + t * tile_bytes, laid out as packing.h says
};
MatrixView view(const Matrix& matrix);

}  // namespace tutti::tensor
