#include "text/spiece_normalizer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "text/unicode.h"

namespace tutti::text {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581
constexpr std::string_view kMalformed = "\xEF\xBF\xBD";    // U+FFFD

// A unit of the double array.
bool has_leaf(uint32_t unit) { return (unit >> 8) & 1; }
uint32_t leaf_value(uint32_t unit) { return unit & 0x7FFFFFFFu; }
uint32_t label(uint32_t unit) { return unit & 0x800000FFu; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

}  // namespace

SpieceNormalizer::SpieceNormalizer(Spec spec, const std::string& place) : spec_(std::move(spec)) {
  // Longest first, so that the first that fits is taken.
  std::ranges::stable_sort(spec_.user_defined, std::ranges::greater(), &std::string::size);
  if (spec_.charsmap.empty()) return;
  const auto bad = [&](const std::string& what) {
    throw Error(ErrorKind::kBadFile,
                place + ": the normaliser's table " + what + "; fetch the file again");
  };
  uint32_t bytes = 0;
  if (spec_.charsmap.size() < sizeof bytes) bad("is truncated");
  std::memcpy(&bytes, spec_.charsmap.data(), sizeof bytes);
  const std::string_view rest = std::string_view(spec_.charsmap).substr(sizeof bytes);
  if (bytes == 0 || bytes % 4 != 0 || bytes >= rest.size()) bad("has a size that does not fit");
  units_.resize(bytes / 4);
  std::memcpy(units_.data(), rest.data(), bytes);
  replacements_ = rest.substr(bytes);
  if (replacements_.back() != '\0') bad("ends within a replacement");
}

// A user-defined piece as it is; else the longest entry of the table; else a character, U+FFFD for
// a byte that is none.
SpieceNormalizer::Piece SpieceNormalizer::next(std::string_view text) const {
  for (const std::string& piece : spec_.user_defined) {
    if (!piece.empty() && text.starts_with(piece))
      return {text.substr(0, piece.size()), piece.size()};
  }
  size_t longest = 0, value = 0;
  if (!units_.empty()) {
    size_t node = offset(units_[0]);
    for (size_t i = 0; i < text.size(); ++i) {
      const uint8_t byte = uint8_t(text[i]);
      node ^= byte;
      if (node >= units_.size() || label(units_[node]) != byte) break;
      const uint32_t unit = units_[node];
      node ^= offset(unit);
      if (!has_leaf(unit) || node >= units_.size()) continue;
      longest = i + 1;
      value = leaf_value(units_[node]);
    }
  }
  if (longest > 0 && value < replacements_.size()) {
    const size_t end = replacements_.find('\0', value);
    return {replacements_.substr(value, end - value), longest};
  }
  const Decoded c = decode_utf8(text, 0);
  if (!c.valid) return {kMalformed, 1};
  return {text.substr(0, c.length), c.length};
}

std::string SpieceNormalizer::apply(std::string_view text, bool continues) const {
  const std::string_view space = spec_.escape_spaces ? kSpaceSymbol : std::string_view(" ");
  std::string out;
  bool leading = false;  // the text began with space
  while (spec_.remove_extra_spaces && !text.empty()) {
    const Piece piece = next(text);
    if (piece.text != " ") break;
    leading = true;
    text.remove_prefix(piece.size);
  }
  if (text.empty()) return continues && leading ? std::string(space) : out;
  if (continues ? leading : spec_.dummy_prefix && !spec_.space_is_suffix) out += space;
  bool after_space = spec_.remove_extra_spaces;
  while (!text.empty()) {
    const Piece piece = next(text);
    std::string_view rest = piece.text;
    while (after_space && rest.starts_with(' ')) rest.remove_prefix(1);
    for (const char c : rest) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    if (!rest.empty()) after_space = rest.ends_with(' ');
    if (!spec_.remove_extra_spaces) after_space = false;
    text.remove_prefix(piece.size);
  }
  while (spec_.remove_extra_spaces && !continues && out.ends_with(space))
    out.resize(out.size() - space.size());
  if (!continues && spec_.dummy_prefix && spec_.space_is_suffix) out += space;
  return out;
}

}  // namespace tutti::text
