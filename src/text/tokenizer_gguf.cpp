// Tokenizers from the `tokenizer.ggml.*` keys of GGUF files.
#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "text/tokenizer.h"

namespace tutti::text {
namespace {

using formats::Gguf;

[[noreturn]] void bad(const Gguf& file, const std::string& what) {
  throw Error(ErrorKind::kBadFile, file.name() + ": " + what + "; the file is damaged");
}

std::vector<Token> read_tokens(const Gguf& file) {
  auto texts = file.strings("tokenizer.ggml.tokens");
  if (!texts) {
    throw Error(ErrorKind::kUnsupported,
                file.name() + ": no tokenizer.ggml.tokens; the file has no vocabulary");
  }
  if (texts->size() > Vocabulary::kMaxTokens) {
    bad(file, "tokenizer.ggml.tokens: " + std::to_string(texts->size()) + " tokens");
  }
  const auto scores = file.numbers("tokenizer.ggml.scores");
  const auto types = file.integers("tokenizer.ggml.token_type");
  const auto check_length = [&](const char* key, size_t length) {
    if (length != texts->size()) {
      bad(file, std::string(key) + ": " + std::to_string(length) + " entries for " +
                    std::to_string(texts->size()) + " tokens");
    }
  };
  if (scores) check_length("tokenizer.ggml.scores", scores->size());
  if (types) check_length("tokenizer.ggml.token_type", types->size());
  std::vector<Token> tokens(texts->size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    tokens[id].text = std::move((*texts)[id]);
    if (scores) tokens[id].score = float((*scores)[id]);
    if (types) {
      const int64_t type = (*types)[id];
      if (type < 0 || type > int64_t(TokenType::kByte)) {
        bad(file, "tokenizer.ggml.token_type: " + std::to_string(type) + " for token " +
                      std::to_string(id));
      }
      tokens[id].type = type == 0 ? TokenType::kNormal : TokenType(type);
    }
  }
  return tokens;
}

std::vector<std::pair<std::string, std::string>> read_merges(const Gguf& file) {
  const auto lines = file.strings("tokenizer.ggml.merges");
  if (!lines) bad(file, "tokenizer.ggml.merges is missing");
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(lines->size());
  for (const std::string& line : *lines) {
    // The left part is never empty, but may itself begin with a space in character-level files.
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos || space + 1 == line.size()) {
      bad(file, "tokenizer.ggml.merges: entry " + std::to_string(merges.size()) + " is not a pair");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

int32_t read_id(const Gguf& file, const char* key) {
  const auto value = file.integer(key);
  if (!value || *value == -1 || *value == int64_t(UINT32_MAX)) return kNoToken;
  if (*value < 0 || *value > int64_t(INT32_MAX)) {
    bad(file, std::string(key) + " is " + std::to_string(*value));
  }
  return int32_t(*value);
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const Gguf& file) { return Tokenizer(read_gguf(file)); }

TokenizerSpec Tokenizer::read_gguf(const Gguf& file) {
  const auto model = file.string("tokenizer.ggml.model");
  if (!model) {
    throw Error(ErrorKind::kUnsupported,
                file.name() + ": no tokenizer.ggml.model; the file has no vocabulary");
  }
  TokenizerSpec spec;
  spec.name = file.name();
  const std::string pre = file.string("tokenizer.ggml.pre").value_or("default");
  if (*model == "gpt2") {
    spec.kind = TokenizerKind::kByteLevelBpe;
    spec.family = pre;
    spec.pre_tokenizer = PreTokenizer::named(pre);
    spec.ignore_merges = PreTokenizer::ignores_merges(pre);
    // The same files may lack `add_bos_token` although the model wants its bos.
    spec.add_bos = spec.ignore_merges;
    if (file.boolean(kGgufNfc).value_or(false)) spec.normalizer.add_nfc();
    spec.merges = read_merges(file);
  } else if (*model == "llama") {
    spec.kind = TokenizerKind::kSentencePieceBpe;
    spec.family = "spm";
    spec.add_bos = true;
    const bool prefix = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
    if (const auto metaspace = file.string(kGgufMetaspace); prefix && metaspace) {
      spec.pre_tokenizer.add_metaspace(
          "\xE2\x96\x81", *metaspace == "first" ? PrefixScheme::kFirst : PrefixScheme::kAlways,
          false);
    } else {
      spec.normalizer.add_replace(" ", "\xE2\x96\x81");
      spec.space_prefix = prefix ? PrefixScheme::kAlways : PrefixScheme::kNever;
    }
    spec.decoding = {true, prefix, Malformed::kByte};
  } else if (*model == "gemma4") {
    // SentencePiece text, but with ranked merges instead of scores; pieces end at line breaks.
    spec.kind = TokenizerKind::kCharacterBpe;
    spec.family = *model;
    spec.add_bos = true;
    spec.normalizer.add_replace(" ", "\xE2\x96\x81");
    spec.pre_tokenizer.add_split("[^\n]+|[\n]+", SplitBehavior::kIsolated);
    spec.decoding = {true, false, Malformed::kByte};
    spec.merges = read_merges(file);
  } else {
    throw Error(ErrorKind::kUnsupported,
                file.name() + ": tokenizer.ggml.model \"" + *model +
                    "\" is not supported; BPE (gpt2, gemma4) and SentencePiece BPE (llama) are");
  }
  spec.tokens = read_tokens(file);
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const Token& token = spec.tokens[id];
    const bool special = token.type == TokenType::kControl || token.type == TokenType::kUnknown;
    if (token.text.empty() || (!special && token.type != TokenType::kUserDefined)) continue;
    AddedToken added;
    added.id = int32_t(id);
    added.text = token.text;
    added.special = special;
    // SentencePiece looks for user-defined symbols where spaces are U+2581 already.
    added.normalized = spec.decoding.metaspace && token.type == TokenType::kUserDefined;
    spec.added.push_back(std::move(added));
  }
  spec.bos = read_id(file, "tokenizer.ggml.bos_token_id");
  spec.eos = read_id(file, "tokenizer.ggml.eos_token_id");
  spec.eot = read_id(file, "tokenizer.ggml.eot_token_id");
  spec.unknown = read_id(file, "tokenizer.ggml.unknown_token_id");
  if (spec.kind != TokenizerKind::kByteLevelBpe) spec.substitute = spec.unknown;
  spec.pad = read_id(file, "tokenizer.ggml.padding_token_id");
  spec.mask = read_id(file, "tokenizer.ggml.mask_token_id");
  spec.add_bos = file.boolean("tokenizer.ggml.add_bos_token").value_or(spec.add_bos);
  spec.add_eos = file.boolean("tokenizer.ggml.add_eos_token").value_or(spec.add_eos);
  if (spec.bos == kNoToken) spec.add_bos = false;
  if (spec.eos == kNoToken) spec.add_eos = false;
  spec.chat_template = file.string("tokenizer.chat_template").value_or("");
  return spec;
}

}  // namespace tutti::text
