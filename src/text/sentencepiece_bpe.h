// SentencePiece's BPE at run time (Kudo and Richardson, EMNLP 2018): of all adjacent pairs whose
// concatenation is a token, join the one with the highest score, the leftmost on ties.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace tutti::text {

// Appends the ids of `text`, in which spaces are already U+2581. Characters that are no token
// become their byte tokens where the vocabulary has these, else `unknown` once per run (nothing
// when it is kNoToken); malformed bytes likewise, one by one. Bytes are looked up in `byte_ids`,
// 256 of them or kNoToken. n log n in the length of the text.
void encode_sentencepiece(const Vocabulary& vocabulary, const std::vector<int32_t>& byte_ids,
                          int32_t unknown, std::string_view text, std::vector<int32_t>& ids);

}  // namespace tutti::text
