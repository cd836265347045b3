// Element and block types of stored tensors. Ids are GGUF's (ggml_type).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tutti::tensor {

enum class Type : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct TypeInfo {
  Type type;
  std::string_view name;  // as GGUF tools print it: "Q4_1"
  int block;              // elements of a block; a row's length must be a multiple
  int block_bytes;
  bool quantised;  // blocks with a scale, as opposed to F32, F16, BF16
};

// Null when the id is none that we can read.
const TypeInfo* find_type(uint32_t id);
const TypeInfo* find_type(std::string_view name);  // case-insensitive
const TypeInfo& info(Type type);

// Bytes of a row of n elements; n must be a multiple of the block.
size_t row_bytes(Type type, int64_t n);

}  // namespace tutti::tensor
