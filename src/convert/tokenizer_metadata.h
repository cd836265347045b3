// A folder's tokenizer in GGUF's keys: tokens, scores, types, merges, special ids, chat templates.
//
// Byte-level BPE becomes GGUF's "gpt2", with the pre-tokenizer's name found by comparing its steps
// with those that the names stand for. BPE over characters with byte fallback (Llama-2, Mistral,
// Gemma, once made from SentencePiece models) becomes "llama", SentencePiece BPE by score: a
// token's score is minus the place of its merges. That gives the same tokens only when every pair
// of tokens that makes a token is a merge, and when the merges that make one token stand together,
// as in vocabularies that come from SentencePiece; both is checked.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/model_folder.h"

namespace tutti::convert {

struct TokenizerMetadata {
  formats::GgufMetadata metadata;
  std::vector<std::string> notes;  // for people: what other programs will not see
};

// `vocab` is the number of the embedding's rows; ids without a token are filled up. Throws
// Error(kNotFound) when the folder has no tokenizer.json, Error(kUnsupported) naming what GGUF
// cannot say.
TokenizerMetadata tokenizer_metadata(const formats::ModelFolder& folder, int vocab);

}  // namespace tutti::convert
