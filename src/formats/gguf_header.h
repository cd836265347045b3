// What comes before the data of one GGUF file, checked.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "formats/gguf.h"

namespace tutti::formats {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF", little-endian
inline constexpr uint64_t kGgufDefaultAlignment = 32;

struct GgufHeader {
  uint32_t version = 3;
  uint64_t alignment = kGgufDefaultAlignment;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // without their data
  uint64_t data_offset = 0;         // from the file's start
};

// Parses and checks the header of a file of `file_size` bytes whose first bytes are `bytes`.
// Throws Error(kBadFile | kUnsupported) naming `name` and the field.
GgufHeader parse_gguf_header(std::span<const std::byte> bytes, uint64_t file_size,
                             const std::string& name);

}  // namespace tutti::formats
