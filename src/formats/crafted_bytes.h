// For tests: bytes of a file put together field by field, right or wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace tutti::formats {

class CraftedBytes {
 public:
  template <typename T>
  CraftedBytes& put(T value) {
    const auto raw = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    return *this;
  }
  CraftedBytes& u8(uint8_t v) { return put(v); }
  CraftedBytes& u32(uint32_t v) { return put(v); }
  CraftedBytes& u64(uint64_t v) { return put(v); }
  CraftedBytes& raw(std::string_view text) {
    const auto raw = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    return *this;
  }
  CraftedBytes& zeros(size_t n) {
    bytes_.resize(bytes_.size() + n);
    return *this;
  }
  CraftedBytes& align(size_t to) { return zeros((to - bytes_.size() % to) % to); }

  // GGUF: length and text.
  CraftedBytes& text(std::string_view s) { return u64(s.size()).raw(s); }
  // GGUF: a file's first 24 bytes.
  CraftedBytes& header(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
    return raw("GGUF").u32(version).u64(tensors).u64(pairs);
  }
  // GGUF: key and type; the value follows.
  CraftedBytes& key(std::string_view name, uint32_t type) { return text(name).u32(type); }
  // GGUF: one tensor's description.
  CraftedBytes& tensor(std::string_view name, std::initializer_list<uint64_t> dims, uint32_t type,
                       uint64_t offset) {
    text(name).u32(uint32_t(dims.size()));
    for (const uint64_t dim : dims) u64(dim);
    return u32(type).u64(offset);
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace tutti::formats
