// Text to token ids and back, for the vocabularies of GGUF files and of Hugging Face's
// tokenizer.json.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/gguf.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/spiece_normalizer.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace tutti::text {

// What GGUF's own keys cannot say about a tokenizer that was converted to them; other programs
// ignore these two.
inline constexpr std::string_view kGgufNfc =
    "tutti.tokenizer.nfc";  // true: text goes through NFC first
// "first", "always": the space prefix goes only before text that begins with no space; "first"
// before the very text only, not after special tokens.
inline constexpr std::string_view kGgufMetaspace = "tutti.tokenizer.metaspace";

enum class TokenizerKind {
  kByteLevelBpe,      // merges over bytes, written in the printable alphabet of GPT-2
  kCharacterBpe,      // merges over characters, byte tokens <0xHH> for those not in the vocabulary
  kSentencePieceBpe,  // by score
  kUnigram,    // the segmentation of the highest sum of scores (SentencePiece's unigram model)
  kWordPiece,  // each word by its longest tokens from the left (BERT)
};

// How the text of decoded tokens is made whole.
struct Decoding {
  bool metaspace = false;          // U+2581 becomes a space
  bool strip_first_space = false;  // of the very first token, once
  Malformed malformed = Malformed::kSubpart;
  bool words = false;    // a space before each token that begins a word
  bool cleanup = false;  // with `words`: none before marks such as "." and "n't"
};

// Everything a tokenizer is made of, whichever file it comes from.
struct TokenizerSpec {
  std::string name;    // of the file, for errors
  std::string family;  // the pre-tokenizer's name, "spm" …; for people
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  std::vector<Token> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank; BPE kinds only
  std::vector<AddedToken> added;
  Normalizer normalizer;
  std::shared_ptr<const SpieceNormalizer>
      spiece;  // of kUnigram: instead of the normalizer and the space prefix
  PreTokenizer pre_tokenizer;
  PrefixScheme space_prefix = PrefixScheme::kNever;  // a space before the text (SentencePiece)
  bool ignore_merges = false;  // a whole piece that is a token is taken as it is
  // What stands for a character or byte that has no token: kNoToken drops it, as `tokenizers` does.
  int32_t substitute = kNoToken;
  bool fuse_substitutes = true;  // one for a run of them
  Decoding decoding;
  // Of kWordPiece: what tokens begin with that go on with a word, and the most characters of a
  // word; longer ones are unknown.
  std::string continuing_prefix;
  int longest_word = 0;
  int32_t bos = kNoToken, eos = kNoToken, eot = kNoToken, unknown = kNoToken, pad = kNoToken,
          mask = kNoToken;
  bool add_bos = false, add_eos = false;  // what the model was trained with
  std::string chat_template;
};

struct EncodeOptions {
  bool parse_special = true;  // "<|im_end|>" in the text becomes the control token
  bool add_bos = false;
  bool add_eos = false;
  bool continues = false;  // the text goes on after another: no space is put before it
};

// May be used by several threads at once.
class Tokenizer {
 public:
  // Reads `tokenizer.ggml.*`. Throws Error(kBadFile) for a damaged vocabulary, Error(kUnsupported)
  // naming a tokenizer model or pre-tokenizer that is not known.
  static Tokenizer from_gguf(const formats::Gguf& file);
  // The same, for those who write it down again.
  static TokenizerSpec read_gguf(const formats::Gguf& file);
  // Reads tokenizer.json and, unless empty, tokenizer_config.json. Errors as above; `name` stands
  // for the folder in them.
  static Tokenizer from_hf(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                           const std::string& name = "tokenizer.json");
  // Reads a SentencePiece model file (spiece.model) of the unigram kind. Errors as above.
  static Tokenizer from_spiece(std::string_view model, std::string_view tokenizer_config_json,
                               const std::string& name = "spiece.model");
  // The same, for those who write it down again.
  static TokenizerSpec read_hf(std::string_view tokenizer_json,
                               std::string_view tokenizer_config_json, const std::string& name);
  // Throws Error(kBadFile) when parts do not fit: merges of texts that are no tokens, ids out of
  // range.
  explicit Tokenizer(TokenizerSpec spec);

  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // Well-formed UTF-8: what is malformed becomes U+FFFD. Ids outside the vocabulary throw
  // Error(kUsage).
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  // The same bytes before malformed sequences are replaced.
  std::string decode_bytes(std::span<const int32_t> ids, bool skip_special = false) const;
  // The bytes a token stands for; nothing is stripped. Throws Error(kUsage).
  std::string_view token_bytes(int32_t id) const;
  // The same at the very beginning of a text, as decoding has it.
  std::string_view first_bytes(int32_t id) const;
  // Whether decoding with `skip_special` leaves it out.
  bool is_control(int32_t id) const;
  // The token of exactly this text as the file writes it, or kNoToken.
  int32_t find(std::string_view text) const { return vocabulary_.find(text); }

  int32_t vocab_size() const { return vocabulary_.size(); }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  const std::string& name() const { return spec_.name; }
  const std::string& family() const { return spec_.family; }
  TokenizerKind kind() const { return spec_.kind; }
  std::string_view kind_name() const;
  const Decoding& decoding() const { return spec_.decoding; }

  // Special tokens, kNoToken when the model has none.
  int32_t bos() const { return spec_.bos; }
  int32_t eos() const { return spec_.eos; }
  int32_t eot() const { return spec_.eot; }  // ends a turn: <|im_end|>, <end_of_turn>, <|eot_id|> …
  int32_t unknown() const { return spec_.unknown; }
  int32_t pad() const { return spec_.pad; }
  int32_t mask() const { return spec_.mask; }
  // All tokens at which generation ends, ascending.
  const std::vector<int32_t>& end_ids() const { return end_ids_; }
  bool is_end(int32_t id) const;
  // Adds one (generation_config.json may list several). Throws Error(kUsage) when out of range.
  void add_end_id(int32_t id);

  // Of an encoder that reads pairs: [bos] first [eos] second [eos], and where the second begins.
  // Throws Error(kUnsupported) when the vocabulary has no such marks.
  struct Pair {
    std::vector<int32_t> ids;
    int second = 0;
  };
  Pair encode_pair(std::string_view first, std::string_view second) const;

  bool add_bos_default() const { return spec_.add_bos; }
  bool add_eos_default() const { return spec_.add_eos; }
  // Jinja source, empty when the model has none.
  const std::string& chat_template() const { return spec_.chat_template; }
  void set_chat_template(std::string source) { spec_.chat_template = std::move(source); }

 private:
  void check_ids() const;
  void make_bytes();
  void make_merges();
  void find_end_ids();
  void encode_segment(std::string_view text, bool first, const EncodeOptions& options,
                      std::vector<int32_t>& ids) const;
  void encode_normalized(std::string text, bool first, std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& symbols,
                    std::vector<int32_t>& ids) const;
  void spell(std::string_view piece, std::vector<int32_t>& symbols) const;

  TokenizerSpec spec_;  // less tokens, merges and added tokens, which live below
  Vocabulary vocabulary_;
  Vocabulary whole_pieces_;  // bytes -> id where ignore_merges asks for it (byte-level)
  std::vector<int32_t> whole_ids_;
  Bpe bpe_;
  AddedTokens raw_added_, normalized_added_;
  std::vector<std::string> bytes_;  // by id
  std::vector<uint8_t> control_;    // by id: left out with skip_special
  std::vector<int32_t> byte_ids_;   // 256: the token that stands for one byte
  std::vector<int32_t> end_ids_;
};

}  // namespace tutti::text
