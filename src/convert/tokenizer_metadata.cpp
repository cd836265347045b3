#include "convert/tokenizer_metadata.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "formats/shown.h"
#include "text/tokenizer.h"

namespace tutti::convert {
namespace {

using formats::GgufValue;
using text::kNoToken;
using text::Token;
using text::TokenizerKind;
using text::TokenType;

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

std::string with_spaces(std::string text) {
  for (size_t at = 0; (at = text.find(kMetaspace, at)) != std::string::npos;)
    text.replace(at, kMetaspace.size(), " ");
  return text;
}

class Writer {
 public:
  Writer(const formats::ModelFolder& folder, int vocab)
      : folder_(folder), place_(folder.path().string()) {
    const auto json = folder.text("tokenizer.json");
    if (!json) {
      throw Error(ErrorKind::kNotFound,
                  place_ + ": has no tokenizer.json; save the tokenizer beside the weights");
    }
    spec_ = text::Tokenizer::read_hf(*json, folder.tokenizer_config().dump(), place_);
    if (spec_.tokens.size() > size_t(vocab)) {
      throw Error(ErrorKind::kBadFile, place_ + ": tokenizer.json has " +
                                           std::to_string(spec_.tokens.size()) +
                                           " tokens, but the embedding " + std::to_string(vocab) +
                                           " rows; the tokenizer is another model's");
    }
    vocab_ = size_t(vocab);
  }

  TokenizerMetadata write() && {
    check_added();
    if (spec_.kind == TokenizerKind::kByteLevelBpe) {
      byte_level();
    } else {
      sentencepiece();
    }
    special_ids();
    templates();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kUnsupported,
                place_ + ": tokenizer.json: " + what +
                    ", which a GGUF file cannot say; run the folder as it is");
  }
  void put(std::string key, GgufValue value) {
    out_.metadata.emplace_back("tokenizer." + std::move(key), std::move(value));
  }

  void check_added() {
    for (const text::AddedToken& added : spec_.added) {
      const std::string shown = "the added token " + formats::shown(added.text);
      if (added.lstrip || added.rstrip) refuse(shown + " swallows the white space beside it");
      if (added.single_word) refuse(shown + " is found between word borders only");
      const bool changed = added.normalized && spec_.normalizer.apply(added.text) != added.text;
      const bool composes = added.normalized && has_nfc();
      if (composes || (changed && spec_.kind == TokenizerKind::kByteLevelBpe)) {
        refuse(shown + " is looked for after normalisation");
      }
    }
  }

  bool has_nfc() const {
    return std::ranges::any_of(spec_.normalizer.steps(), [](const auto& step) {
      return step.kind == text::Normalizer::Step::Kind::kNfc;
    });
  }

  // ---- byte-level BPE

  // However the text is cut first: there are no merges, no pieces that are tokens as they are, and
  // the cutting neither adds nor drops text.
  bool every_byte_is_a_token() const {
    using Step = text::PreTokenizer::Step;
    return spec_.merges.empty() && !spec_.ignore_merges &&
           std::ranges::all_of(spec_.pre_tokenizer.steps(), [](const Step& step) {
             return step.kind == Step::Kind::kSplit &&
                    step.behavior != text::SplitBehavior::kRemoved;
           });
  }

  void byte_level() {
    const auto& steps = spec_.normalizer.steps();
    if (steps.size() > 1 || (steps.size() == 1 && !has_nfc()))
      refuse("a normalizer other than NFC");
    auto name = spec_.pre_tokenizer.gguf_name(spec_.ignore_merges);
    if (!name && every_byte_is_a_token()) name = "gpt-2";
    if (!name) refuse("the pre-tokenizer is none that has a name in GGUF");
    const text::Tokenizer tokenizer{text::TokenizerSpec(spec_)};
    if (spec_.substitute != kNoToken) {
      // Files of this kind drop bytes that have no token.
      for (int byte = 0; byte < 256; ++byte) {
        const std::string one(1, char(byte));
        const auto ids = tokenizer.encode(one, {.parse_special = false});
        if (ids == std::vector<int32_t>{spec_.substitute})
          refuse("an unknown token stands for some bytes");
      }
    }
    put("ggml.model", GgufValue::string("gpt2"));
    put("ggml.pre", GgufValue::string(std::string(*name)));
    put_tokens(false);
    std::vector<std::string> merges;
    for (const auto& [left, right] : spec_.merges) merges.push_back(left + " " + right);
    put("ggml.merges", GgufValue::strings(std::move(merges)));
    if (!has_nfc()) return;
    out_.metadata.emplace_back(std::string(text::kGgufNfc), GgufValue::boolean(true));
    out_.notes.push_back("text is brought into the form NFC first; other programs will not do so");
  }

  // ---- SentencePiece

  void sentencepiece() {
    using Kind = text::PreTokenizer::Step::Kind;
    using NormalizerKind = text::Normalizer::Step::Kind;
    const std::string space = text::escape_pattern(" ");
    text::PrefixScheme prefix = text::PrefixScheme::kNever;
    bool replaced = false, metaspace = false, words = false;
    for (const auto& step : spec_.normalizer.steps()) {
      if (step.kind == NormalizerKind::kPrepend && step.content == kMetaspace && !replaced) {
        prefix = text::PrefixScheme::kAlways;
      } else if (step.kind == NormalizerKind::kReplace && step.regex->pattern() == space &&
                 step.content == kMetaspace) {
        replaced = true;
      } else {
        refuse("a normalizer other than SentencePiece's");
      }
    }
    const auto& steps = spec_.pre_tokenizer.steps();
    for (size_t i = 0; i < steps.size(); ++i) {
      const auto& step = steps[i];
      if (step.kind == Kind::kMetaspace && step.replacement == kMetaspace && i == 0 && !replaced) {
        prefix = step.prefix;
        replaced = metaspace = true;
      } else if (step.kind == Kind::kSplit && replaced && step.regex->pattern() == space) {
        // No space is left to split at.
      } else if (step.kind == Kind::kSplit && i == 1 && !step.invert &&
                 step.behavior == text::SplitBehavior::kMergedWithNext &&
                 step.regex->pattern() == text::escape_pattern(kMetaspace)) {
        words = true;
      } else {
        refuse("a pre-tokenizer other than SentencePiece's");
      }
    }
    if (!replaced || !spec_.decoding.metaspace) refuse("spaces do not become U+2581");
    const bool has_prefix = prefix != text::PrefixScheme::kNever;
    if (spec_.decoding.strip_first_space != has_prefix)
      refuse("decoding strips another space than encoding adds");
    if (spec_.ignore_merges) refuse("whole pieces are taken before merging (ignore_merges)");
    check_unknown();
    score_by_merges();
    check_pairs(words);
    if (spec_.unknown != kNoToken) spec_.tokens[size_t(spec_.unknown)].type = TokenType::kUnknown;

    put("ggml.model", GgufValue::string("llama"));
    put("ggml.pre", GgufValue::string("default"));
    put_tokens(true);
    put("ggml.add_space_prefix", GgufValue::boolean(has_prefix));
    if (longest_run_ > 0) {
      out_.notes.push_back("runs of more than " + std::to_string(longest_run_) +
                           " spaces may be cut into tokens at other places than in the folder");
    }
    if (!metaspace || !has_prefix) return;
    const bool first = prefix == text::PrefixScheme::kFirst;
    out_.metadata.emplace_back(std::string(text::kGgufMetaspace),
                               GgufValue::string(first ? "first" : "always"));
    out_.notes.push_back(
        std::string("a space goes ") + (first ? "once " : "") +
        "before text that begins with none; other programs put it before every text");
  }

  void check_unknown() {
    std::vector<bool> has(256, false);
    for (const Token& t : spec_.tokens) {
      if (t.type == TokenType::kByte) has[size_t(text::byte_of_token(t.text))] = true;
    }
    const bool all = std::ranges::all_of(has, [](bool h) { return h; });
    if (!all && !spec_.fuse_substitutes)
      refuse("every unknown character is a token of its own (fuse_unk is false)");
  }

  bool is_ordinary(const Token& t) const { return t.type == TokenType::kNormal && !t.text.empty(); }

  void score_by_merges() {
    ids_.reserve(spec_.tokens.size());
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      ids_.try_emplace(spec_.tokens[id].text, int32_t(id));
    }
    for (const Token& token : spec_.tokens) {
      if (is_run_of_spaces(token.text))
        longest_run_ = std::max(longest_run_, token.text.size() / kMetaspace.size());
    }
    pairs_.resize(spec_.tokens.size());
    std::string joined;
    int32_t last = kNoToken;
    float place = 0;
    for (const auto& [left, right] : spec_.merges) {
      joined.assign(left).append(right);
      const auto found = ids_.find(joined);
      if (found == ids_.end()) continue;  // the folder's own reader refuses it
      const auto id = size_t(found->second);
      Token& token = spec_.tokens[id];
      if (is_ordinary(token) && (is_run_of_spaces(left) || is_run_of_spaces(right))) {
        // Such tokens are cut out of the text before merging.
        refuse(formats::shown(joined) + " is made of a run of spaces that is a token by itself");
      }
      pairs_[id].push_back(uint32_t(left.size()));
      if (found->second == last) continue;
      if (is_ordinary(token) && token.score != 0) {
        refuse("the merges that make " + formats::shown(joined) + " do not stand together");
      }
      last = found->second;
      token.score = --place;
    }
  }

  bool is_run_of_spaces(const std::string& text) const {
    const auto found = ids_.find(text);
    return found != ids_.end() &&
           spec_.tokens[size_t(found->second)].type == TokenType::kUserDefined && !text.empty() &&
           with_spaces(text).find_first_not_of(' ') == std::string::npos;
  }

  // Merging by score takes any two tokens that make a token; the list of merges must say the same.
  void check_pairs(bool words) const {
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      const Token& t = spec_.tokens[id];
      if (!is_ordinary(t)) continue;
      const std::string_view whole = t.text;
      if (words && whole.find(kMetaspace, 1) != std::string_view::npos) {
        refuse("words are cut apart before merging, but " + formats::shown(t.text) +
               " reaches over two");
      }
      for (size_t cut = 1; cut < whole.size(); ++cut) {
        if ((uint8_t(whole[cut]) & 0xC0) == 0x80) continue;  // within a character
        if (is_merge(id, cut) || !can_stand(whole.substr(0, cut)) || !can_stand(whole.substr(cut)))
          continue;
        refuse("the tokens " + formats::shown(whole.substr(0, cut)) + " and " +
               formats::shown(whole.substr(cut)) + " make a token, but are no merge");
      }
    }
  }
  bool is_merge(size_t id, size_t cut) const {
    return std::ranges::find(pairs_[id], uint32_t(cut)) != pairs_[id].end();
  }
  // Whether merging by score can come to hold it: any character, or an ordinary token.
  bool can_stand(std::string_view part) const {
    size_t characters = 0;
    for (const char c : part) characters += (uint8_t(c) & 0xC0) != 0x80;
    if (characters == 1) return true;
    const auto found = ids_.find(std::string(part));
    return found != ids_.end() && is_ordinary(spec_.tokens[size_t(found->second)]);
  }

  // ---- both

  void put_tokens(bool scores) {
    std::vector<std::string> texts;
    std::vector<int32_t> types;
    std::vector<float> values;
    for (size_t id = 0; id < vocab_; ++id) {
      const Token token =
          id < spec_.tokens.size() ? spec_.tokens[id] : Token{"", 0, TokenType::kUnused};
      const bool hole = token.type == TokenType::kUnused;
      const bool spaces =
          scores && token.type == TokenType::kUserDefined;  // written as they stand in the text
      texts.push_back(hole     ? "[PAD" + std::to_string(id) + "]"
                      : spaces ? with_spaces(token.text)
                               : token.text);
      types.push_back(int32_t(token.type));
      values.push_back(hole ? -10000.0f : token.score);
    }
    put("ggml.tokens", GgufValue::strings(std::move(texts)));
    if (scores) put("ggml.scores", GgufValue::f32s(values));
    put("ggml.token_type", GgufValue::i32s(types));
  }

  void special_ids() {
    const auto id = [&](const char* name, int32_t value) {
      if (value != kNoToken)
        put(std::string("ggml.") + name + "_token_id", GgufValue::u32(uint32_t(value)));
    };
    if (spec_.eos == kNoToken) spec_.eos = id_in(folder_.config(), "eos_token_id");
    if (spec_.bos == kNoToken) spec_.bos = id_in(folder_.config(), "bos_token_id");
    // What a masked model fills in is its own word, not the tokenizer's.
    if (const int32_t mask = id_in(folder_.config(), "mask_token_id"); mask != kNoToken)
      spec_.mask = mask;
    id("bos", spec_.bos);
    id("eos", spec_.eos);
    id("unknown", spec_.unknown);
    id("padding", spec_.pad);
    id("mask", spec_.mask);
    // Where generation ends besides: the file has room for one more token than readers know by
    // their texts.
    const text::Tokenizer tokenizer{text::TokenizerSpec(spec_)};
    const auto& generation = folder_.generation_config();
    std::vector<int32_t> ends;
    if (const auto eos = generation.find("eos_token_id"); eos != generation.end()) {
      for (const auto& one : eos->is_array() ? *eos : nlohmann::json::array({*eos})) {
        if (one.is_number_integer()) ends.push_back(one.get<int32_t>());
      }
    }
    std::erase_if(ends, [&](int32_t end) {
      return tokenizer.is_end(end) || end < 0 || size_t(end) >= vocab_;
    });
    if (tokenizer.eot() == kNoToken && !ends.empty()) {
      id("eot", ends.front());
      ends.erase(ends.begin());
    }
    for (const int32_t end : ends) {
      out_.notes.push_back("generation_config.json ends at token " + std::to_string(end) +
                           " too, which the GGUF file cannot say");
    }
    put("ggml.add_bos_token", GgufValue::boolean(spec_.add_bos));
    put("ggml.add_eos_token", GgufValue::boolean(spec_.add_eos));
  }

  int32_t id_in(const nlohmann::json& config, const char* key) const {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_number_integer()) return kNoToken;
    const auto value = found->get<int64_t>();
    return value >= 0 && size_t(value) < spec_.tokens.size() ? int32_t(value) : kNoToken;
  }

  void templates() {
    const auto main = folder_.chat_template();
    if (main) put("chat_template", GgufValue::string(*main));
    std::vector<std::string> names;
    for (const auto& [name, source] : folder_.chat_templates()) {
      if (main && source == *main) continue;
      put("chat_template." + name, GgufValue::string(source));
      names.push_back(name);
    }
    if (!names.empty()) put("chat_templates", GgufValue::strings(std::move(names)));
  }

  const formats::ModelFolder& folder_;
  std::string place_;
  text::TokenizerSpec spec_;
  size_t vocab_ = 0;
  std::unordered_map<std::string, int32_t> ids_;
  size_t longest_run_ = 0;                    // of spaces that are a token by themselves
  std::vector<std::vector<uint32_t>> pairs_;  // by token: where its merges cut it, in bytes
  TokenizerMetadata out_;
};

}  // namespace

TokenizerMetadata tokenizer_metadata(const formats::ModelFolder& folder, int vocab) {
  return Writer(folder, vocab).write();
}

}  // namespace tutti::convert
