// A tokenizer as the files of a Hugging Face folder, for folders that are made from a GGUF file.
#pragma once

#include <string>

#include "text/tokenizer.h"

namespace tutti::text {

struct HfTokenizerFiles {
  std::string tokenizer_json;         // tokenizer.json
  std::string tokenizer_config_json;  // tokenizer_config.json; may be empty
};

// Of byte-level BPE; the `tokenizers` library makes the same ids of them. Throws
// Error(kUnsupported) for another kind and for two tokens of one text, which tokenizer.json cannot
// hold.
HfTokenizerFiles hf_tokenizer_files(const TokenizerSpec& spec);

}  // namespace tutti::text
