#include "text/vocabulary.h"

#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "base/error.h"

namespace tutti::text {

int byte_of_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

Vocabulary::Vocabulary(std::vector<Token> tokens, const std::string& name)
    : tokens_(std::move(tokens)) {
  if (tokens_.empty()) {
    throw Error(ErrorKind::kBadFile, name + ": the vocabulary is empty; the file is incomplete");
  }
  if (tokens_.size() > kMaxTokens) {
    throw Error(ErrorKind::kBadFile, name + ": " + std::to_string(tokens_.size()) +
                                         " tokens; a vocabulary has at most " +
                                         std::to_string(kMaxTokens));
  }
  slots_.assign(std::bit_ceil(tokens_.size() * 2), kNoToken);
  const size_t mask = slots_.size() - 1;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const Token& token = tokens_[id];
    if (std::isnan(token.score)) {
      throw Error(ErrorKind::kBadFile, name + ": the score of token " + std::to_string(id) +
                                           " is not a number; the file is damaged");
    }
    longest_ = std::max(longest_, token.text.size());
    size_t slot = std::hash<std::string_view>{}(token.text) & mask;
    while (slots_[slot] != kNoToken && tokens_[size_t(slots_[slot])].text != token.text) {
      slot = (slot + 1) & mask;
    }
    if (slots_[slot] == kNoToken) slots_[slot] = int32_t(id);
  }
}

int32_t Vocabulary::find(std::string_view text) const {
  if (slots_.empty() || text.size() > longest_) return kNoToken;
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (slots_[slot] != kNoToken) {
    if (tokens_[size_t(slots_[slot])].text == text) return slots_[slot];
    slot = (slot + 1) & mask;
  }
  return kNoToken;
}

}  // namespace tutti::text
