#include "text/bert_text.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "text/normalizer.h"
#include "text/unicode.h"

namespace tutti::text {
namespace {

struct CharacterRange {
  char32_t begin, end;  // inclusive
};

// Every `step`-th code point of the range becomes itself plus `shift`.
struct LowerRange {
  char32_t begin, end;  // inclusive
  uint32_t step;
  int32_t shift;
};

#include "text/bert_tables.inc"

// The range that holds `c`, or null.
template <class Range, size_t N>
const Range* range_of(const Range (&ranges)[N], char32_t c) {
  const auto after =
      std::upper_bound(std::begin(ranges), std::end(ranges), c,
                       [](char32_t value, const Range& range) { return value < range.begin; });
  if (after == std::begin(ranges) || c > (after - 1)->end) return nullptr;
  return &*(after - 1);
}

// The library's ranges, its gap before U+2B920 included.
constexpr CharacterRange kChinese[] = {
    {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
    {0x2A700, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F},
};

void append_lower(std::string& out, char32_t c) {
  constexpr char32_t kDottedI = 0x130, kDot = 0x307;
  if (c == kDottedI) {  // the only one that becomes two
    out += 'i';
    return append_utf8(out, kDot);
  }
  const LowerRange* range = range_of(kLowerRanges, c);
  const bool changes = range && (c - range->begin) % range->step == 0;
  append_utf8(out, changes ? char32_t(int64_t(c) + range->shift) : c);
}

// Calls fn(out, code point) for each well-formed character, and copies what is malformed.
template <class Fn>
std::string mapped(std::string_view text, const Fn& fn) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Decoded c = decode_utf8(text, at);
    if (c.valid)
      fn(out, c.code_point);
    else
      out.append(text.substr(at, c.length));
    at += c.length;
  }
  return out;
}

// Normalisation form D as the library has it: U+11938 is newer than its data and stays whole.
// (Marks that are as new may come in another order than there.)
std::string decomposed(std::string_view text) {
  constexpr std::string_view kNewer = "\xF0\x91\xA4\xB8";
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text.find(kNewer, at)) != std::string_view::npos;) {
    out += nfd(text.substr(at, found - at));
    out += kNewer;
    at = found + kNewer.size();
  }
  return out + nfd(text.substr(at));
}

}  // namespace

bool is_bert_punctuation(char32_t c) { return range_of(kPunctuation, c) != nullptr; }

std::string bert_normalized(std::string_view text, const BertNormalizer& rules) {
  std::string out = mapped(text, [&](std::string& to, char32_t c) {
    if (rules.clean && range_of(kRemoved, c)) return;
    if (rules.clean && is_white_space(c)) c = ' ';
    const bool alone = rules.chinese && range_of(kChinese, c);
    if (alone) to += ' ';
    append_utf8(to, c);
    if (alone) to += ' ';
  });
  if (rules.strip_accents) {
    out = mapped(decomposed(out), [](std::string& to, char32_t c) {
      if (!range_of(kNonspacingMarks, c)) append_utf8(to, c);
    });
  }
  return rules.lowercase ? mapped(out, append_lower) : out;
}

}  // namespace tutti::text
