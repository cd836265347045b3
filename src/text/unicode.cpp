#include "text/unicode.h"

#include <cstdint>

namespace tutti::text {

Decoded decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {lead, 1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range is what excludes overlong forms, surrogates and values above U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t value = lead & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) return {kReplacement, i, false, true};
    const uint8_t next = byte(at + i);
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xBF)) {
      return {kReplacement, i, false, false};
    }
    value = (value << 6) | (next & 0x3F);
  }
  return {value, length, true, false};
}

void append_utf8(std::string& out, char32_t c) {
  if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) c = kReplacement;
  if (c < 0x80) {
    out += char(c);
    return;
  }
  if (c < 0x800) {
    out += char(0xC0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      out += char(0xE0 | (c >> 12));
    } else {
      out += char(0xF0 | (c >> 18));
      out += char(0x80 | ((c >> 12) & 0x3F));
    }
    out += char(0x80 | ((c >> 6) & 0x3F));
  }
  out += char(0x80 | (c & 0x3F));
}

std::string encode_utf8(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

size_t valid_utf8_prefix(std::string_view text, size_t from) {
  size_t at = from;
  while (at < text.size()) {
    if (uint8_t(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Decoded decoded = decode_utf8(text, at);
    if (!decoded.valid) break;
    at += decoded.length;
  }
  return at - from;
}

bool is_valid_utf8(std::string_view text) { return valid_utf8_prefix(text) == text.size(); }

std::string replace_malformed_utf8(std::string_view text, Malformed rule) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t valid = valid_utf8_prefix(text, at);
    out.append(text.substr(at, valid));
    at += valid;
    if (at == text.size()) break;
    append_utf8(out, kReplacement);
    at += rule == Malformed::kByte ? 1 : decode_utf8(text, at).length;
  }
  return out;
}

size_t incomplete_utf8_suffix(std::string_view text) {
  for (size_t length = 1; length <= 3 && length <= text.size(); ++length) {
    const size_t at = text.size() - length;
    if ((uint8_t(text[at]) & 0xC0) == 0x80)
      continue;  // a continuation byte: its lead is further left
    const Decoded decoded = decode_utf8(text, at);
    return decoded.truncated && decoded.length == length ? length : 0;
  }
  return 0;
}

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace tutti::text
