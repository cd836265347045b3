// What a whole model is converted to: llama.cpp's names and `general.file_type` numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tensor/type.h"

namespace tutti::convert {

struct FileType {
  enum class Mix : uint8_t {
    kNone,
    kSmall,
    kMedium
  };  // which tensors of a K-quant file get more bits

  std::string_view name;
  uint32_t id = 0;                         // general.file_type
  tensor::Type type = tensor::Type::kF32;  // of most matrices
  Mix mix = Mix::kNone;
  bool copy = false;  // every tensor keeps its stored type
  std::string_view description;
};

// All of them, in the order in which help shows them.
std::span<const FileType> file_types();
// Case-insensitive; "Q4_K" and "Q5_K" are the medium mixes. Throws Error(kUsage) that lists the
// names.
const FileType& file_type(std::string_view name);
// A tensor's type by name. Throws Error(kUsage) that lists the names and begins with `option`.
tensor::Type tensor_type(std::string_view name, std::string_view option);

}  // namespace tutti::convert
