// Unicode normalisation forms D and C: decompose, order combining marks, compose (UAX #15; Hangul
// by arithmetic).
#include <algorithm>
#include <cstdint>
#include <vector>

#include "text/normalizer.h"
#include "text/unicode.h"

namespace tutti::text {
namespace {

struct Decomposition {
  char32_t whole, first, second;  // second is 0 for a singleton
  bool composes;                  // the pair is put together again
};

struct CombiningClass {
  char32_t begin, end;  // inclusive
  uint8_t value;
};

#include "text/nfc_tables.inc"

constexpr char32_t kHangul = 0xAC00, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kLeadings = 19, kVowels = 21, kTrailings = 28;

uint8_t combining_class(char32_t c) {
  if (c < 0x300) return 0;
  const auto found = std::upper_bound(
      std::begin(kCombiningClasses), std::end(kCombiningClasses), c,
      [](char32_t value, const CombiningClass& range) { return value < range.begin; });
  if (found == std::begin(kCombiningClasses)) return 0;
  const CombiningClass& range = *(found - 1);
  return c <= range.end ? range.value : 0;
}

void decompose(char32_t c, std::vector<char32_t>& out) {
  if (c < 0xC0) {
    out.push_back(c);
    return;
  }
  if (c >= kHangul && c < kHangul + kLeadings * kVowels * kTrailings) {
    const char32_t index = c - kHangul;
    out.push_back(kLeading + index / (kVowels * kTrailings));
    out.push_back(kVowel + index / kTrailings % kVowels);
    if (index % kTrailings != 0) out.push_back(kTrailing + index % kTrailings);
    return;
  }
  const auto found =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                       [](const Decomposition& d, char32_t value) { return d.whole < value; });
  if (found == std::end(kDecompositions) || found->whole != c) {
    out.push_back(c);
    return;
  }
  decompose(found->first, out);
  if (found->second != 0) decompose(found->second, out);
}

struct Composition {
  char32_t first, second, whole;
};

const std::vector<Composition>& compositions() {
  static const std::vector<Composition> table = [] {
    std::vector<Composition> result;
    for (const Decomposition& d : kDecompositions) {
      if (d.composes) result.push_back({d.first, d.second, d.whole});
    }
    std::sort(result.begin(), result.end(), [](const Composition& a, const Composition& b) {
      return a.first != b.first ? a.first < b.first : a.second < b.second;
    });
    return result;
  }();
  return table;
}

// The composite of a pair, or 0.
char32_t compose(char32_t a, char32_t b) {
  if (a >= kLeading && a < kLeading + kLeadings && b >= kVowel && b < kVowel + kVowels) {
    return kHangul + ((a - kLeading) * kVowels + (b - kVowel)) * kTrailings;
  }
  if (a >= kHangul && a < kHangul + kLeadings * kVowels * kTrailings &&
      (a - kHangul) % kTrailings == 0 && b > kTrailing && b < kTrailing + kTrailings) {
    return a + (b - kTrailing);
  }
  const auto& table = compositions();
  const auto found = std::lower_bound(
      table.begin(), table.end(), std::pair(a, b),
      [](const Composition& c, const std::pair<char32_t, char32_t>& pair) {
        return c.first != pair.first ? c.first < pair.first : c.second < pair.second;
      });
  return found != table.end() && found->first == a && found->second == b ? found->whole : 0;
}

void order_marks(std::vector<char32_t>& text) {
  for (size_t i = 0; i < text.size();) {  // canonical order within each run of marks
    size_t end = i;
    while (end < text.size() && combining_class(text[end]) != 0) ++end;
    std::stable_sort(
        text.begin() + ptrdiff_t(i), text.begin() + ptrdiff_t(end),
        [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    i = end + 1;
  }
}

void compose_run(std::vector<char32_t>& text) {
  size_t out = 0;
  size_t starter = SIZE_MAX;  // index in the output of the last character of class 0
  uint8_t last_class = 0;     // of the last character kept after the starter
  for (const char32_t c : text) {
    const uint8_t value = combining_class(c);
    const bool adjacent = starter != SIZE_MAX && starter + 1 == out;
    if (starter != SIZE_MAX && (adjacent || last_class < value)) {
      const char32_t whole = compose(text[starter], c);
      if (whole != 0) {
        text[starter] = whole;
        continue;
      }
    }
    if (value == 0) starter = out;
    last_class = value;
    text[out++] = c;
  }
  text.resize(out);
}

std::string normalised(std::string_view text, bool composed) {
  std::string out;
  out.reserve(text.size());
  std::vector<char32_t> run;
  const auto flush = [&] {
    order_marks(run);
    if (composed) compose_run(run);
    for (const char32_t c : run) append_utf8(out, c);
    run.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const Decoded c = decode_utf8(text, at);
    if (c.valid) {
      decompose(c.code_point, run);
    } else {
      flush();
      out.append(text.substr(at, c.length));
    }
    at += c.length;
  }
  flush();
  return out;
}

}  // namespace

std::string nfc(std::string_view text) {
  // Below U+0300 every character is its own normal form and none combines.
  if (std::none_of(text.begin(), text.end(), [](char c) { return uint8_t(c) >= 0xCC; })) {
    return std::string(text);
  }
  return normalised(text, true);
}

std::string nfd(std::string_view text) { return normalised(text, false); }

}  // namespace tutti::text
