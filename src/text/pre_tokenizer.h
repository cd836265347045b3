// Cuts text into the pieces within which byte-pair merges happen.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace tutti::text {

// The working text (a step may have changed it) and its pieces in order; text outside pieces is
// dropped.
struct PreTokens {
  std::string text;
  struct Piece {
    Range range;
    bool valid_utf8 = true;  // malformed bytes are pieces of their own, which no expression sees
  };
  std::vector<Piece> pieces;

  std::string_view view(size_t i) const {
    return std::string_view(text).substr(pieces[i].range.begin, pieces[i].range.size());
  }
};

// What becomes of a match and of the text between matches (the names of `tokenizers`).
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

// When a prefix goes before the text: never, before the very first piece, or after special tokens
// too.
enum class PrefixScheme { kNever, kFirst, kAlways };

class PreTokenizer {
 public:
  // GPT-2's expression, which ByteLevel steps of tokenizer.json mean too.
  static constexpr std::string_view kGpt2Pattern =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  // No steps: the whole text is one piece.
  PreTokenizer() = default;

  // The steps that a GGUF file means by its `tokenizer.ggml.pre`. Throws Error(kUnsupported) naming
  // it.
  static PreTokenizer named(std::string_view pre);
  // Whether `named` knows it.
  static bool knows(std::string_view pre);
  // Whether the published tokenizers of that name take a whole piece that is a token as it is.
  static bool ignores_merges(std::string_view pre);
  // The name that a GGUF file gives to these very steps; nullopt when it has none for them.
  std::optional<std::string_view> gguf_name(bool ignore_merges) const;

  void add_split(std::string_view pattern, SplitBehavior behavior, bool invert = false);
  // Splits added after this see each byte as its printable character (byte_alphabet.h), as
  // `tokenizers` has it in steps after a ByteLevel step: there 0xB2 is the digit ².
  void begin_byte_level() { byte_level_ = true; }
  bool in_byte_level() const { return byte_level_; }
  // ByteLevel's add_prefix_space: each piece that does not begin with a space gets one.
  void add_prefix_space();
  // Metaspace: spaces become `replacement`, put first too as `prefix` says; with `split`, pieces
  // begin there.
  void add_metaspace(std::string_view replacement, PrefixScheme prefix, bool split);

  // BERT's: cut at white space, which goes, and around each mark of punctuation.
  void add_bert_words();

  // `first` says that no text and no special token came before.
  PreTokens split(std::string text, bool first) const;

  struct Step {
    enum class Kind { kSplit, kPrefixSpace, kMetaspace, kBertWords } kind = Kind::kSplit;
    std::shared_ptr<const Regex> regex;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    bool byte_level = false;
    std::string replacement;
    PrefixScheme prefix = PrefixScheme::kNever;
  };
  // In order, for those who write them down again; add_metaspace with `split` is two of them.
  const std::vector<Step>& steps() const { return steps_; }

 private:
  static void apply_split(const Step& step, PreTokens& tokens);
  static void apply_prefix_space(PreTokens& tokens);
  static void apply_bert_words(PreTokens& tokens);
  static void apply_metaspace(const Step& step, bool first, PreTokens& tokens);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace tutti::text
