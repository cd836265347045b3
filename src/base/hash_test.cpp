#include "base/hash.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace tutti {
namespace {

uint64_t hash_of(std::string_view text, uint64_t seed = 0) {
  return xxh64(std::as_bytes(std::span(text)), seed);
}

// Values of the reference implementation (libxxhash 0.8.1).
TEST(Hash, EqualsTheReference) {
  EXPECT_EQ(hash_of(""), 0xEF46DB3751D8E999ull);
  EXPECT_EQ(hash_of("", 1), 0xD5AFBA1336A3BE4Bull);
  EXPECT_EQ(hash_of("a"), 0xD24EC4F1A98C6E5Bull);
  EXPECT_EQ(hash_of("abc"), 0x44BC2CF5AD770999ull);
  EXPECT_EQ(hash_of("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1ull);
  std::vector<std::byte> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 7 + 3);
  EXPECT_EQ(xxh64(bytes, 12345), 0x365C39A0C5A4C88Eull);
}

TEST(Hash, PiecesDoNotMatter) {
  std::vector<std::byte> bytes(517);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * 31 + 1);
  for (const size_t piece :
       {size_t(1), size_t(7), size_t(31), size_t(32), size_t(33), size_t(100)}) {
    Xxh64 hash(9);
    for (size_t at = 0; at < bytes.size(); at += piece) {
      hash.add(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
      hash.add(std::span<const std::byte>());
    }
    EXPECT_EQ(hash.digest(), xxh64(bytes, 9)) << piece;
  }
}

TEST(Hash, EveryBitCounts) {
  std::vector<std::byte> bytes(75);
  const uint64_t before = xxh64(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte(1 << (bit % 8));
    EXPECT_NE(xxh64(bytes), before);
    bytes[bit / 8] ^= std::byte(1 << (bit % 8));
  }
}

}  // namespace
}  // namespace tutti
