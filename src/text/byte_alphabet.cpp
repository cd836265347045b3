#include "text/byte_alphabet.h"

#include "text/unicode.h"

namespace tutti::text {

const std::array<char32_t, 256>& byte_alphabet() {
  static const std::array<char32_t, 256> alphabet = [] {
    std::array<char32_t, 256> result{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      result[byte] = printable ? byte : next++;
    }
    return result;
  }();
  return alphabet;
}

std::optional<std::string> bytes_of_printable(std::string_view text) {
  static const std::array<int16_t, 0x144> byte_of = [] {
    std::array<int16_t, 0x144> result{};
    result.fill(-1);
    for (int byte = 0; byte < 256; ++byte) result[byte_alphabet()[size_t(byte)]] = int16_t(byte);
    return result;
  }();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Decoded c = decode_utf8(text, at);
    if (!c.valid || c.code_point >= byte_of.size() || byte_of[c.code_point] < 0)
      return std::nullopt;
    out += char(byte_of[c.code_point]);
    at += c.length;
  }
  return out;
}

std::string printable_of_bytes(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(out, byte_alphabet()[uint8_t(byte)]);
  return out;
}

}  // namespace tutti::text
