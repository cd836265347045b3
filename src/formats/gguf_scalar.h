// Fixed-width GGUF values as bytes and back, bit for bit.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/gguf.h"

namespace tutti::formats {

// `from` holds gguf_type_bytes(type) bytes; a bool's byte is already checked. Error(kUsage) when
// `type` has no fixed width.
GgufValue load_scalar(GgufType type, std::span<const std::byte> from);

// Appends the value's bytes. Error(kUsage) when it holds another alternative than its type says, or
// does not fit.
void store_scalar(const GgufValue& value, std::vector<std::byte>& to);

}  // namespace tutti::formats
