// XXH64 (Collet, the xxHash specification 0.1.1): a fast 64-bit hash for checksums and identities
// of files. It finds accidents, not forgers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace tutti {

class Xxh64 {
 public:
  explicit Xxh64(uint64_t seed = 0);
  void add(std::span<const std::byte> bytes);
  // The bytes of a number, as they lie in memory.
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void add(T value) {
    add(std::as_bytes(std::span(&value, 1)));
  }
  // Of everything added so far.
  uint64_t digest() const;

 private:
  uint64_t seed_;
  uint64_t lanes_[4];
  std::byte buffer_[32];
  size_t buffered_ = 0;
  uint64_t total_ = 0;
};

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace tutti
