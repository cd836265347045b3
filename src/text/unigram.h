// SentencePiece's unigram model: of all segmentations of a text into pieces, the one with the
// highest sum of scores (Kudo, ACL 2018), with the rules of sentencepiece 0.2 for ties, unknown
// characters and user-defined pieces.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace tutti::text {

// Appends the ids of `text`, which is well-formed UTF-8. A character without a piece becomes its
// byte tokens where there are any, else `unknown`, one for a run of them (kNoToken: dropped).
void encode_unigram(const Vocabulary& vocabulary, const std::vector<int32_t>& byte_ids,
                    int32_t unknown, std::string_view text, std::vector<int32_t>& ids);

}  // namespace tutti::text
