// Bytes as base64 (RFC 4648, padded), and back.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tutti {

inline constexpr std::string_view kBase64Letters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

inline std::string base64(std::span<const std::byte> bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    unsigned word = 0;
    for (size_t k = 0; k < 3; ++k) word = word << 8 | (k < n ? unsigned(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kBase64Letters[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// nullopt: other letters than base64's, white space among them, padding that is missing or not at
// the end, or bits that stand for no byte.
inline std::optional<std::vector<std::byte>> bytes_of_base64(std::string_view text) {
  static const auto kValues = [] {
    std::array<int8_t, 256> values;
    values.fill(-1);
    for (size_t i = 0; i < kBase64Letters.size(); ++i)
      values[uint8_t(kBase64Letters[i])] = int8_t(i);
    return values;
  }();
  if (text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::vector<std::byte> out;
  out.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    const size_t letters = i + 4 == text.size() ? 4 - padding : 4;
    unsigned word = 0;
    for (size_t k = 0; k < 4; ++k) {
      const int value = k < letters ? kValues[uint8_t(text[i + k])] : 0;
      if (value < 0) return std::nullopt;
      word = word << 6 | unsigned(value);
    }
    for (size_t k = 0; k + 1 < letters; ++k) out.push_back(std::byte(word >> (16 - 8 * k) & 255));
    if ((word & ((1u << (8 * (4 - letters))) - 1)) != 0) return std::nullopt;
  }
  return out;
}

}  // namespace tutti
