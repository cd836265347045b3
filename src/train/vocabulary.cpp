#include "train/vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "formats/gguf.h"
#include "models/find_model.h"
#include "text/byte_alphabet.h"

namespace tutti::train {
namespace {

using Json = nlohmann::ordered_json;

Json added_token(int id, const std::string& content, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

Json byte_level(bool regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", false},
          {"use_regex", regex}};
}

text::HfTokenizerFiles files_of(const std::string& name) {
  const auto path = models::find_model(name);
  if (!std::filesystem::is_directory(path)) {
    return text::hf_tokenizer_files(text::Tokenizer::read_gguf(formats::Gguf::open(path)));
  }
  if (!std::filesystem::exists(path / "tokenizer.json")) {
    throw Error(ErrorKind::kNotFound,
                "tokenizer.from: " + path.string() +
                    " has no tokenizer.json; name a GGUF file or a folder that has one");
  }
  const auto config = path / "tokenizer_config.json";
  return {read_file(path / "tokenizer.json"),
          std::filesystem::exists(config) ? read_file(config) : ""};
}

// The folder's readers, ours and others', shall know the mask token by name.
void name_mask(text::HfTokenizerFiles& files, const std::string& mask) {
  Json config = files.tokenizer_config_json.empty() ? Json::object()
                                                    : Json::parse(files.tokenizer_config_json);
  if (!config.is_object()) config = Json::object();
  config["mask_token"] = mask;
  files.tokenizer_config_json = config.dump(1) + "\n";
}

}  // namespace

text::HfTokenizerFiles character_tokenizer(const std::string& characters,
                                           const std::vector<std::string>& special,
                                           const std::vector<std::string>& words) {
  Json vocab = Json::object();
  for (const char c : characters) {
    if (static_cast<unsigned char>(c) >= 0x80) {
      throw Error(ErrorKind::kUsage,
                  "tokenizer.characters: hold a character that is not ASCII; remove it");
    }
    const std::string text = text::printable_of_bytes(std::string(1, c));
    if (vocab.contains(text)) {
      throw Error(ErrorKind::kUsage,
                  "tokenizer.characters: hold the character " + text + " twice; remove one");
    }
    vocab[text] = vocab.size();
  }
  const int end = int(vocab.size());
  Json added = {added_token(end, kEndToken), added_token(end + 1, kMaskToken)};
  for (const std::string& token : special)
    added.push_back(added_token(end + int(added.size()), token));
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].empty() || std::find(words.begin(), words.begin() + std::ptrdiff_t(i), words[i]) !=
                                words.begin() + std::ptrdiff_t(i)) {
      throw Error(ErrorKind::kUsage, "tokenizer.words: hold \"" + words[i] +
                                         "\" twice, or hold a word of no letters; remove it");
    }
    added.push_back(added_token(end + int(added.size()), words[i], /*special=*/false));
  }
  const Json tokenizer{{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", added},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", byte_level(false)},
                       {"post_processor", nullptr},
                       {"decoder", byte_level(true)},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"vocab", vocab},
                         {"merges", Json::array()}}}};
  const Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
                    {"eos_token", kEndToken},
                    {"pad_token", kEndToken},
                    {"mask_token", kMaskToken},
                    {"clean_up_tokenization_spaces", false}};
  return {tokenizer.dump(1) + "\n", config.dump(1) + "\n"};
}

Vocabulary make_vocabulary(const TokenizerRecipe& recipe) {
  text::HfTokenizerFiles files =
      recipe.from.empty() ? character_tokenizer(recipe.characters) : files_of(recipe.from);
  text::Tokenizer tokenizer =
      text::Tokenizer::from_hf(files.tokenizer_json, files.tokenizer_config_json);
  Vocabulary v{std::move(files), std::move(tokenizer), -1, -1, recipe.from.empty()};
  v.end = v.tokenizer.eos();
  if (v.end < 0) {
    throw Error(ErrorKind::kUnsupported, "tokenizer.from: " + recipe.from +
                                             " names no end token; set eos_token in its "
                                             "tokenizer_config.json");
  }
  v.mask = recipe.mask.empty() ? v.tokenizer.mask() : v.tokenizer.find(recipe.mask);
  if (!recipe.mask.empty() && v.mask < 0) {
    throw Error(ErrorKind::kUsage,
                "tokenizer.mask: \"" + recipe.mask +
                    "\" is no token of the tokenizer; name one that no text has");
  }
  if (!recipe.mask.empty()) name_mask(v.files, recipe.mask);
  return v;
}

}  // namespace tutti::train
