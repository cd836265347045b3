// The 256 printable code points that byte-level tokenizers write bytes with (GPT-2's
// bytes_to_unicode).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tutti::text {

// The code point of each byte: printable Latin-1 stands for itself, the others follow from U+0100.
const std::array<char32_t, 256>& byte_alphabet();

// The bytes that a token text stands for; nullopt when a character of it is not in the alphabet.
std::optional<std::string> bytes_of_printable(std::string_view text);

// The text that stands for bytes.
std::string printable_of_bytes(std::string_view bytes);

}  // namespace tutti::text
