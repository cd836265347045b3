#include "text/wordpiece.h"

#include <algorithm>

#include "text/unicode.h"

namespace tutti::text {
namespace {

// Begins of tokens that no space goes before (`tokenizers`, WordPiece decoder).
constexpr std::string_view kCloseTokens[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};

// Where each character of a word begins, and its end; empty when it is malformed or too long.
std::vector<size_t> borders_of(std::string_view word, int most) {
  std::vector<size_t> borders;
  for (size_t at = 0; at < word.size();) {
    const Decoded c = decode_utf8(word, at);
    if (!c.valid || int(borders.size()) == most) return {};
    borders.push_back(at);
    at += c.length;
  }
  borders.push_back(word.size());
  return borders;
}

// The border at which the longest token of the vocabulary could end that begins at border `first`,
// or `first`: whatever the length of a word, each of its characters begins few that are looked up.
size_t furthest(const std::vector<size_t>& borders, size_t first, size_t prefix,
                const Vocabulary& vocabulary) {
  if (prefix >= vocabulary.longest()) return first;
  const size_t end = borders[first] + vocabulary.longest() - prefix;
  return size_t(std::ranges::upper_bound(borders, end) - borders.begin()) - 1;
}

}  // namespace

void encode_wordpiece(const Vocabulary& vocabulary, const WordPieceRules& rules,
                      std::string_view word, std::vector<int32_t>& ids) {
  const size_t before = ids.size();
  const std::vector<size_t> borders = borders_of(word, rules.longest_word);
  bool known = !borders.empty();
  std::string token;
  for (size_t first = 0; known && first + 1 < borders.size();) {
    known = false;
    const std::string_view prefix = first > 0 ? rules.continuing_prefix : std::string_view();
    for (size_t last = furthest(borders, first, prefix.size(), vocabulary); last > first; --last) {
      token.assign(prefix).append(word.substr(borders[first], borders[last] - borders[first]));
      const int32_t id = vocabulary.find(token);
      if (id == kNoToken) continue;
      ids.push_back(id);
      first = last;
      known = true;
      break;
    }
  }
  if (known) return;
  ids.resize(before);
  if (rules.unknown != kNoToken) ids.push_back(rules.unknown);
}

std::string word_bytes(std::string_view token, std::string_view continuing_prefix, bool cleanup) {
  if (!continuing_prefix.empty() && token.starts_with(continuing_prefix))
    return std::string(token.substr(continuing_prefix.size()));
  const bool close = cleanup && std::ranges::any_of(kCloseTokens, [&](std::string_view begin) {
                       return token.starts_with(begin);
                     });
  return (close ? "" : " ") + std::string(token);
}

}  // namespace tutti::text
