#include "base/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tutti {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ull, kPrime2 = 0xC2B2AE3D27D4EB4Full,
                   kPrime3 = 0x165667B19E3779F9ull, kPrime4 = 0x85EBCA77C2B2AE63ull,
                   kPrime5 = 0x27D4EB2F165667C5ull;

template <class T>
T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

uint64_t round(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

uint64_t merge(uint64_t hash, uint64_t lane) { return (hash ^ round(0, lane)) * kPrime1 + kPrime4; }

}  // namespace

Xxh64::Xxh64(uint64_t seed)
    : seed_(seed), lanes_{seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1} {}

void Xxh64::add(std::span<const std::byte> bytes) {
  total_ += bytes.size();
  const auto block = [&](const std::byte* p) {
    for (int i = 0; i < 4; ++i) lanes_[i] = round(lanes_[i], read<uint64_t>(p + 8 * i));
  };
  if (buffered_ > 0) {
    const size_t n = std::min(bytes.size(), sizeof(buffer_) - buffered_);
    if (n > 0) std::memcpy(buffer_ + buffered_, bytes.data(), n);
    buffered_ += n;
    bytes = bytes.subspan(n);
    if (buffered_ < sizeof(buffer_)) return;
    block(buffer_);
    buffered_ = 0;
  }
  for (; bytes.size() >= sizeof(buffer_); bytes = bytes.subspan(sizeof(buffer_)))
    block(bytes.data());
  if (!bytes.empty()) std::memcpy(buffer_, bytes.data(), bytes.size());
  buffered_ = bytes.size();
}

uint64_t Xxh64::digest() const {
  uint64_t hash = seed_ + kPrime5;
  if (total_ >= sizeof(buffer_)) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
           std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) hash = merge(hash, lane);
  }
  hash += total_;
  size_t at = 0;
  for (; at + 8 <= buffered_; at += 8) {
    hash = std::rotl(hash ^ round(0, read<uint64_t>(buffer_ + at)), 27) * kPrime1 + kPrime4;
  }
  if (at + 4 <= buffered_) {
    hash = std::rotl(hash ^ (read<uint32_t>(buffer_ + at) * kPrime1), 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at < buffered_; ++at)
    hash = std::rotl(hash ^ (uint64_t(buffer_[at]) * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed) {
  Xxh64 hash(seed);
  hash.add(bytes);
  return hash.digest();
}

}  // namespace tutti
