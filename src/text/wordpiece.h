// WordPiece at run time (Schuster and Nakajima 2012, as in BERT): a word is cut, from the left,
// into the longest tokens; where there is none, the whole word is unknown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace tutti::text {

struct WordPieceRules {
  std::string_view continuing_prefix;  // of tokens that do not begin a word: "##"
  int longest_word = 100;              // characters; longer words are unknown
  int32_t unknown = kNoToken;          // kNoToken: an unknown word has no token at all
};

// Appends the ids of one word. Malformed bytes are unknown.
void encode_wordpiece(const Vocabulary& vocabulary, const WordPieceRules& rules,
                      std::string_view word, std::vector<int32_t>& ids);

// The text of a token within others: with a space before it where it begins a word, but, with
// `cleanup`, not before what English writes without one.
std::string word_bytes(std::string_view token, std::string_view continuing_prefix, bool cleanup);

}  // namespace tutti::text
