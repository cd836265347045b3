#include "text/added_tokens.h"

#include "base/error.h"
#include "text/unicode.h"

namespace tutti::text {
namespace {

// The code point that ends at `end`, for looking left.
Decoded decode_before(std::string_view text, size_t end) {
  for (size_t length = 1; length <= 4 && length <= end; ++length) {
    const Decoded decoded = decode_utf8(text, end - length);
    if (decoded.valid && decoded.length == length) return decoded;
  }
  return {};
}

// Rust's \w, which `tokenizers` asks at the borders of a single_word token.
bool is_word(const Decoded& c) {
  if (!c.valid) return false;
  if (c.code_point < 0x80) {
    const char ascii = char(c.code_point);
    return (ascii >= 'a' && ascii <= 'z') || (ascii >= 'A' && ascii <= 'Z') ||
           (ascii >= '0' && ascii <= '9') || ascii == '_';
  }
  static const Regex word(R"([\w\p{Nl}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{200C}\x{200D}])");
  const std::string text = encode_utf8(c.code_point);
  return RegexScan(word, text).find(0).has_value();
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::string& name)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    const std::string& text = tokens_[t].text;
    if (text.size() > kMaxText) {
      throw Error(ErrorKind::kBadFile, name + ": the special token " +
                                           std::to_string(tokens_[t].id) + " is " +
                                           std::to_string(text.size()) + " bytes long; at most " +
                                           std::to_string(kMaxText) + " are allowed");
    }
    if (text.empty()) continue;
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const uint8_t byte = uint8_t(text[i]);
      uint32_t next = 0;
      for (const auto& [value, target] : nodes_[node].next) {
        if (value == byte) next = target;
      }
      if (next == 0) {
        next = uint32_t(nodes_.size());
        nodes_[node].next.emplace_back(byte, next);
        nodes_.emplace_back();
        if (i == 0) first_[byte] = next;
      }
      node = next;
    }
    if (nodes_[node].token < 0) nodes_[node].token = int32_t(t);
  }
}

std::vector<AddedTokens::Found> AddedTokens::find(std::string_view text, bool special) const {
  std::vector<Found> found;
  size_t taken = 0;  // everything before it belongs to tokens found already
  for (size_t at = 0; at < text.size();) {
    uint32_t node = first_[uint8_t(text[at])];
    const AddedToken* best = nullptr;
    for (size_t i = at + 1; node != 0;) {
      const int32_t token = nodes_[node].token;
      if (token >= 0 && (special || !tokens_[size_t(token)].special))
        best = &tokens_[size_t(token)];
      if (i == text.size()) break;
      const uint8_t byte = uint8_t(text[i++]);
      uint32_t next = 0;
      for (const auto& [value, target] : nodes_[node].next) {
        if (value == byte) {
          next = target;
          break;
        }
      }
      node = next;
    }
    if (best == nullptr) {
      ++at;
      continue;
    }
    Range range{at, at + best->text.size()};
    at = range.end;
    if (best->single_word && ((range.begin > 0 && is_word(decode_before(text, range.begin))) ||
                              (range.end < text.size() && is_word(decode_utf8(text, range.end))))) {
      continue;
    }
    if (best->lstrip) {
      while (range.begin > taken) {
        const Decoded c = decode_before(text, range.begin);
        if (!c.valid || !is_white_space(c.code_point) || range.begin - c.length < taken) break;
        range.begin -= c.length;
      }
    }
    if (best->rstrip) {
      while (range.end < text.size()) {
        const Decoded c = decode_utf8(text, range.end);
        if (!c.valid || !is_white_space(c.code_point)) break;
        range.end += c.length;
      }
    }
    at = taken = range.end;
    found.push_back({range, best->id});
  }
  return found;
}

}  // namespace tutti::text
