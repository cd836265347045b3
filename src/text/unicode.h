// UTF-8 and the few Unicode facts the tokenizers need. Malformed input follows the "maximal
// subpart" rule of the Unicode standard (section 3.9), which Python's errors="replace" and Rust's
// from_utf8_lossy follow too.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tutti::text {

inline constexpr char32_t kReplacement = 0xFFFD;

// What stands at one place of a byte string.
struct Decoded {
  char32_t code_point = kReplacement;  // kReplacement when not valid
  size_t length = 1;       // bytes of the code point, or of the maximal malformed subpart (>= 1)
  bool valid = false;      // strict: no overlong forms, no surrogates, nothing above U+10FFFF
  bool truncated = false;  // malformed only because the text ends too early
};

// Decodes the code point at `at` < text.size().
Decoded decode_utf8(std::string_view text, size_t at);

// Appends the UTF-8 of a scalar value; surrogates and values above U+10FFFF become U+FFFD.
void append_utf8(std::string& out, char32_t code_point);
std::string encode_utf8(char32_t code_point);

// Length of the longest valid prefix that begins at `from`: text.size() - from when all the rest is
// valid.
size_t valid_utf8_prefix(std::string_view text, size_t from = 0);
bool is_valid_utf8(std::string_view text);

// How many U+FFFD one malformed sequence becomes.
enum class Malformed {
  kSubpart,  // one per maximal subpart: Python, Rust, byte-level tokenizers
  kByte,     // one per byte: the sentencepiece library
};
std::string replace_malformed_utf8(std::string_view text, Malformed rule = Malformed::kSubpart);

// Length of the trailing bytes that may yet become one valid code point when more bytes follow: 0
// to 3.
size_t incomplete_utf8_suffix(std::string_view text);

// The White_Space property (Rust's char::is_whitespace; oniguruma's \s). Stable since Unicode 6.3.
bool is_white_space(char32_t code_point);

}  // namespace tutti::text
