#include "base/base64.h"

#include <gtest/gtest.h>

#include <string>

namespace tutti {
namespace {

std::string text_of(const std::optional<std::vector<std::byte>>& bytes) {
  if (!bytes) return "none";
  return std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size());
}

// The vectors of RFC 4648, section 10.
TEST(Base64, VectorsOfTheStandard) {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, coded] : vectors) {
    EXPECT_EQ(base64(std::as_bytes(std::span(std::string_view(plain)))), coded);
    EXPECT_EQ(text_of(bytes_of_base64(coded)), plain);
  }
}

TEST(Base64, AllBytesComeBack) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 3 * 256 + 1; ++i) bytes.push_back(std::byte(i * 7 % 256));
  EXPECT_EQ(bytes_of_base64(base64(bytes)), bytes);
}

TEST(Base64, WhatIsNoneIsRefused) {
  for (const char* text : {"Z", "Zg", "Zg=", "Zg===", "Z===", "====", "=", "Zm9v=", "Zg==Zg==",
                           "Zm 9", "Zm9\n", "Zm9-", "Zm9_", "Z\xC3\xA9v", "Zh==", "Zm9="}) {
    EXPECT_EQ(bytes_of_base64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace tutti
