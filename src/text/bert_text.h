// What BERT's tokenizers do to text before WordPiece: the BertNormalizer and the BertPreTokenizer
// of the `tokenizers` library. Their classes of characters are that library's, which are those of
// an older Unicode than its regular expressions have (make_bert_tables.py).
#pragma once

#include <string>
#include <string_view>

namespace tutti::text {

struct BertNormalizer {
  bool clean = true;    // control characters go, white space becomes a blank
  bool chinese = true;  // a blank on each side of a CJK ideograph
  bool strip_accents = true;
  bool lowercase = true;
};

// Malformed bytes stay as they are.
std::string bert_normalized(std::string_view text, const BertNormalizer& rules);

bool is_bert_punctuation(char32_t code_point);

}  // namespace tutti::text
