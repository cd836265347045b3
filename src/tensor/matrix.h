// A weight matrix as the kernels want it: tiles of 16 outputs, k innermost groups interleaved so
// that one vector load holds the same k-group of 16 outputs. One layout serves every instruction
// set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
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

// Memory for the matrices of one model, cut from large pieces in the order of their packing: huge pages serve them
// however small each is, and what is read one after the other lies one after the other.
class WeightMemory {
 public:
  // `size` bytes, 64-byte aligned, contents undefined; the piece lives as long as anything cut from it. Throws
  // Error(kLimit).
  std::shared_ptr<std::byte> take(size_t size);

 private:
  std::shared_ptr<AlignedBytes> piece_;
  size_t used_ = 0;
};

inline constexpr int kTileOutputs = 16;

// How products with this matrix are computed (DESIGN: arithmetic classes).
enum class Arithmetic : uint8_t {
  kExactQ8,   // quantised types: int8 activations, exact int32 block dots, fp32 chain over blocks
  kExactF32,  // weights widened to fp32, one fp32 fma chain over k
};

// [out, in] weights, row-major in the file, packed here. Dense types (F32, F16, BF16) always
// compute as kExactF32. With kExactF32 a quantised type is dequantised to F32 at packing, but for Q4_0: it stays packed
// and each product widens it, to the same bits.
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
  // The same for memory that comes from elsewhere: a matrix without any, its tiles [first, last) packed to `to`, and
  // at last the bytes() bytes of all tiles, 64-byte aligned.
  static Matrix shaped(Type type, int out, int in, Arithmetic arithmetic);
  void pack_tiles(Type type, std::span<const std::byte> raw, int first, int last,
                  std::byte* to) const;
  void place(std::shared_ptr<const std::byte> tiles) { data_ = std::move(tiles); }

  bool empty() const { return out_ == 0; }
  Type type() const { return type_; }  // the packed type: F32 when dequantised
  int out() const { return out_; }
  int in() const { return in_; }
  int tiles() const { return (out_ + kTileOutputs - 1) / kTileOutputs; }
  size_t tile_bytes() const { return tile_bytes_; }
  const std::byte* tile(int t) const { return data_.get() + size_t(t) * tile_bytes_; }
  size_t bytes() const { return tile_bytes_ * size_t(tiles()); }
  bool quantised() const { return info(type_).quantised; }
  // Elements per activation block: 32, or 256 for K-quants; 0 for products with fp32 activations.
  int activation_block() const {
    return quantised() && arithmetic_ == Arithmetic::kExactQ8 ? info(type_).block : 0;
  }

 private:
  Type type_ = Type::kF32;
  Arithmetic arithmetic_ = Arithmetic::kExactQ8;
  int out_ = 0, in_ = 0;
  size_t tile_bytes_ = 0;
  std::shared_ptr<const std::byte> data_;
  std::byte* own_ = nullptr;  // data_ where this matrix has allocated it
};

// A hash of what packing makes of fixed rows of every type: packed weights of another program whose hash differs are
// laid out differently.
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
