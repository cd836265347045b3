// The tokenizer of a trained model: one token per character, or a copy of another model's.
#pragma once

#include <string>
#include <vector>

#include "text/hf_files.h"
#include "train/recipe.h"

namespace tutti::train {

inline constexpr const char* kEndToken = "<|endoftext|>";
inline constexpr const char* kMaskToken = "<|mask|>";

// Ids 0, 1, … in the order of the text, then kEndToken, then kMaskToken, then `special` ones, then
// `words`: texts that are a token each wherever they stand, the longest first.
// Throws Error(kUsage) for a character that is not ASCII or stands there twice, and for a word that
// is empty or stands there twice.
text::HfTokenizerFiles character_tokenizer(const std::string& characters,
                                           const std::vector<std::string>& special = {},
                                           const std::vector<std::string>& words = {});

struct Vocabulary {
  text::HfTokenizerFiles files;
  text::Tokenizer tokenizer;
  int32_t end = -1, mask = -1;  // mask is -1 when there is none
  bool characters = false;      // the recipe lists them
};

// Throws Error naming what is missing: an end token, the named mask token, tokenizer.json of a
// folder.
Vocabulary make_vocabulary(const TokenizerRecipe& recipe);

}  // namespace tutti::train
