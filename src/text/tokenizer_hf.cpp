// Tokenizers from Hugging Face's tokenizer.json and tokenizer_config.json.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/error.h"
#include "text/tokenizer.h"

namespace tutti::text {
namespace {

using nlohmann::json;

constexpr int kMaxNesting = 8;  // of Sequences in Sequences

class Reader {
 public:
  explicit Reader(const std::string& name) { spec_.name = name; }

  TokenizerSpec read(const json& tokenizer, const json& config) {
    const json& model = object(tokenizer, "model");
    if (has(tokenizer, "normalizer")) read_normalizer(tokenizer["normalizer"], 0);
    byte_level_ = false;
    if (has(tokenizer, "pre_tokenizer")) read_pre_tokenizer(tokenizer["pre_tokenizer"], 0);
    if (has(tokenizer, "decoder")) read_decoder(tokenizer["decoder"], 0);
    spec_.kind = byte_level_ ? TokenizerKind::kByteLevelBpe : TokenizerKind::kCharacterBpe;
    spec_.family = "tokenizer.json";
    read_model(model);
    if (has(tokenizer, "added_tokens")) read_added(tokenizer["added_tokens"]);
    if (model.contains("unk_token") && model["unk_token"].is_string()) {
      spec_.substitute = spec_.unknown = id_of(model["unk_token"].get<std::string>());
    }
    spec_.fuse_substitutes = flag(model, "fuse_unk", false);
    read_config(config);
    if (has(tokenizer, "post_processor")) read_post_processor(tokenizer["post_processor"], 0);
    if (spec_.bos == kNoToken) spec_.add_bos = false;
    if (spec_.eos == kNoToken) spec_.add_eos = false;
    return std::move(spec_);
  }

 private:
  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorKind::kBadFile, spec_.name + ": " + what + "; the file is damaged");
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(ErrorKind::kUnsupported,
                spec_.name + ": the tokenizer uses " + what + ", which is not supported");
  }

  static bool has(const json& parent, const char* key) {
    return parent.is_object() && parent.contains(key) && !parent[key].is_null();
  }
  const json& object(const json& parent, const char* key) const {
    if (!has(parent, key) || !parent[key].is_object())
      bad(std::string("no object \"") + key + "\"");
    return parent[key];
  }
  std::string string(const json& parent, const char* key) const {
    if (!has(parent, key) || !parent[key].is_string())
      bad(std::string("no string \"") + key + "\"");
    return parent[key].get<std::string>();
  }
  bool flag(const json& parent, const char* key, bool otherwise) const {
    if (!has(parent, key)) return otherwise;
    if (!parent[key].is_boolean()) bad(std::string("\"") + key + "\" is not true or false");
    return parent[key].get<bool>();
  }
  const json& list(const json& parent, const char* key, int depth) const {
    if (depth >= kMaxNesting) bad("sequences are nested too deeply");
    if (!has(parent, key) || !parent[key].is_array()) bad(std::string("no list \"") + key + "\"");
    return parent[key];
  }
  int32_t id_of(const std::string& text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? kNoToken : found->second;
  }
  // A pattern object: {"Regex": …} or {"String": …}.
  std::string pattern(const json& parent) const {
    const json& value = object(parent, "pattern");
    if (has(value, "Regex")) return string(value, "Regex");
    return escape_pattern(string(value, "String"));
  }

  void read_normalizer(const json& value, int depth) {
    const std::string type = string(value, "type");
    if (type == "Sequence") {
      for (const json& step : list(value, "normalizers", depth)) read_normalizer(step, depth + 1);
    } else if (type == "NFC") {
      spec_.normalizer.add_nfc();
    } else if (type == "Prepend") {
      spec_.normalizer.add_prepend(string(value, "prepend"));
    } else if (type == "Replace") {
      spec_.normalizer.add_replace(pattern(value), string(value, "content"));
    } else if (type == "Strip") {
      spec_.normalizer.add_strip(flag(value, "strip_left", true), flag(value, "strip_right", true));
    } else if (type == "BertNormalizer") {
      BertNormalizer bert;
      bert.clean = flag(value, "clean_text", true);
      bert.chinese = flag(value, "handle_chinese_chars", true);
      bert.lowercase = flag(value, "lowercase", true);
      bert.strip_accents = flag(value, "strip_accents", bert.lowercase);
      spec_.normalizer.add_bert(bert);
    } else {
      unsupported("the normalizer " + type);
    }
  }

  SplitBehavior behavior(const json& value) const {
    const std::string name = string(value, "behavior");
    if (name == "Isolated") return SplitBehavior::kIsolated;
    if (name == "Removed") return SplitBehavior::kRemoved;
    if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
    if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
    if (name == "Contiguous") return SplitBehavior::kContiguous;
    unsupported("the split behavior " + name);
  }

  PrefixScheme prefix_scheme(const json& value) const {
    if (!has(value, "prepend_scheme")) {
      return flag(value, "add_prefix_space", true) ? PrefixScheme::kAlways : PrefixScheme::kNever;
    }
    const std::string name = string(value, "prepend_scheme");
    if (name == "always") return PrefixScheme::kAlways;
    if (name == "first") return PrefixScheme::kFirst;
    if (name == "never") return PrefixScheme::kNever;
    unsupported("the prepend scheme " + name);
  }

  void read_pre_tokenizer(const json& value, int depth) {
    PreTokenizer& pre = spec_.pre_tokenizer;
    const std::string type = string(value, "type");
    if (type == "Sequence") {
      for (const json& step : list(value, "pretokenizers", depth)) {
        read_pre_tokenizer(step, depth + 1);
      }
    } else if (type == "ByteLevel") {
      if (pre.in_byte_level()) unsupported("a second ByteLevel pre-tokenizer");
      byte_level_ = true;
      if (flag(value, "add_prefix_space", true)) pre.add_prefix_space();
      if (flag(value, "use_regex", true)) {
        pre.add_split(PreTokenizer::kGpt2Pattern, SplitBehavior::kIsolated);
      }
      pre.begin_byte_level();
    } else if (type == "Split") {
      pre.add_split(pattern(value), behavior(value), flag(value, "invert", false));
    } else if (type == "Digits") {
      pre.add_split(R"(\p{N})", flag(value, "individual_digits", false)
                                    ? SplitBehavior::kIsolated
                                    : SplitBehavior::kContiguous);
    } else if (type == "Metaspace") {
      if (pre.in_byte_level()) unsupported("a Metaspace pre-tokenizer after ByteLevel");
      pre.add_metaspace(string(value, "replacement"), prefix_scheme(value),
                        flag(value, "split", true));
    } else if (type == "Punctuation") {
      pre.add_split(R"([!-/:-@\[-`{-~\p{P}])", behavior(value));
    } else if (type == "Whitespace") {
      pre.add_split(R"(\w+|[^\w\s]+)", SplitBehavior::kRemoved, true);
    } else if (type == "WhitespaceSplit") {
      pre.add_split(R"(\s)", SplitBehavior::kRemoved);
    } else if (type == "BertPreTokenizer") {
      if (pre.in_byte_level()) unsupported("a BertPreTokenizer after ByteLevel");
      pre.add_bert_words();
    } else {
      unsupported("the pre-tokenizer " + type);
    }
  }

  void read_decoder(const json& value, int depth) {
    const std::string type = string(value, "type");
    if (type == "Sequence") {
      for (const json& step : list(value, "decoders", depth)) read_decoder(step, depth + 1);
    } else if (type == "ByteLevel") {
      byte_level_ = true;
    } else if (type == "Metaspace") {
      spec_.decoding.metaspace = true;
      spec_.decoding.strip_first_space = prefix_scheme(value) != PrefixScheme::kNever;
    } else if (type == "Replace") {
      const json& from = object(value, "pattern");
      if (!has(from, "String") || from["String"] != "\xE2\x96\x81" ||
          string(value, "content") != " ") {
        unsupported("a Replace decoder other than of U+2581 by a space");
      }
      spec_.decoding.metaspace = true;
    } else if (type == "ByteFallback") {
      spec_.decoding.malformed = Malformed::kByte;
    } else if (type == "Strip") {
      spec_.decoding.strip_first_space = has(value, "start") && value["start"] == 1;
    } else if (type == "WordPiece") {
      spec_.decoding.words = true;
      spec_.decoding.cleanup = flag(value, "cleanup", true);
    } else if (type != "Fuse") {
      unsupported("the decoder " + type);
    }
  }

  Token& token(int64_t id) {
    if (id < 0 || id >= int64_t(Vocabulary::kMaxTokens)) {
      bad("token id " + std::to_string(id) + " is out of range");
    }
    if (size_t(id) >= spec_.tokens.size()) {
      // Ids that no token has (the file may leave holes) are never produced.
      spec_.tokens.resize(size_t(id) + 1, Token{"", 0, TokenType::kUnused});
    }
    return spec_.tokens[size_t(id)];
  }

  int64_t integer(const json& value, const char* what) const {
    if (!value.is_number_integer()) bad(std::string(what) + " is not an integer");
    return value.get<int64_t>();
  }

  void read_wordpiece(const json& model) {
    if (byte_level_) unsupported("WordPiece over bytes");
    spec_.kind = TokenizerKind::kWordPiece;
    spec_.continuing_prefix = string(model, "continuing_subword_prefix");
    const int64_t longest = has(model, "max_input_chars_per_word")
                                ? integer(model["max_input_chars_per_word"], "a word's length")
                                : 100;
    if (longest < 1 || longest > 1 << 20) bad("the longest word has an impossible length");
    spec_.longest_word = int(longest);
  }

  void read_model(const json& model) {
    const std::string type = has(model, "type") ? string(model, "type") : "BPE";
    const bool words = type == "WordPiece";
    if (!words && type != "BPE") unsupported("the model " + type);
    if (words) read_wordpiece(model);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!words && has(model, key) && model[key] != "") unsupported(key);
    }
    const bool byte_fallback = flag(model, "byte_fallback", false);
    spec_.ignore_merges = flag(model, "ignore_merges", false);
    const json& vocab = object(model, "vocab");
    if (vocab.size() > Vocabulary::kMaxTokens) bad("the vocabulary is too large");
    for (const auto& [text, value] : vocab.items()) {
      Token& place = token(integer(value, "a token id"));
      if (place.type != TokenType::kUnused) bad("two tokens have the id " + value.dump());
      const bool byte = byte_fallback && byte_of_token(text) >= 0;
      place = {text, 0, byte ? TokenType::kByte : TokenType::kNormal};
      ids_[text] = int32_t(value.get<int64_t>());
    }
    if (words) return;
    for (const json& merge : list(model, "merges", 0)) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      const std::string text = merge.is_string() ? merge.get<std::string>() : "";
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        bad("merge " + std::to_string(spec_.merges.size()) + " is not a pair");
      }
      spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }

  void read_added(const json& values) {
    if (!values.is_array()) bad("\"added_tokens\" is not a list");
    for (const json& value : values) {
      if (!value.is_object() || !value.contains("id")) bad("an added token has no id");
      AddedToken added;
      added.text = string(value, "content");
      Token& place = token(integer(value["id"], "an added token's id"));
      added.id = int32_t(value["id"].get<int64_t>());
      if (place.type != TokenType::kUnused && place.text != added.text) {
        bad("the added token " + std::to_string(added.id) + " has the id of another token");
      }
      added.special = flag(value, "special", false);
      added.normalized = flag(value, "normalized", !added.special);
      added.lstrip = flag(value, "lstrip", false);
      added.rstrip = flag(value, "rstrip", false);
      added.single_word = flag(value, "single_word", false);
      place = {added.text, 0, added.special ? TokenType::kControl : TokenType::kUserDefined};
      ids_[added.text] = added.id;
      spec_.added.push_back(std::move(added));
    }
  }

  // A special token of tokenizer_config.json: a text, or an object with its "content".
  int32_t special(const json& config, const char* key) const {
    if (!has(config, key)) return kNoToken;
    const json& value = config[key];
    if (value.is_string()) return id_of(value.get<std::string>());
    return value.is_object() && has(value, "content") ? id_of(string(value, "content")) : kNoToken;
  }

  void read_config(const json& config) {
    spec_.bos = special(config, "bos_token");
    spec_.eos = special(config, "eos_token");
    spec_.pad = special(config, "pad_token");
    spec_.mask = special(config, "mask_token");
    if (spec_.unknown == kNoToken) spec_.unknown = special(config, "unk_token");
    spec_.add_bos = flag(config, "add_bos_token", false);
    spec_.add_eos = flag(config, "add_eos_token", false);
    if (!has(config, "chat_template")) return;
    const json& chat = config["chat_template"];
    if (chat.is_string()) {
      spec_.chat_template = chat.get<std::string>();
    } else if (chat.is_array()) {
      for (const json& entry : chat) {
        if (has(entry, "name") && entry["name"] == "default") {
          spec_.chat_template = string(entry, "template");
        }
      }
    }
  }

  // A pair of text and id.
  int32_t mark_of(const json& value, const char* key) const {
    if (!has(value, key) || !value[key].is_array() || value[key].empty() ||
        !value[key][0].is_string())
      bad(std::string("no token \"") + key + "\"");
    const int32_t id = id_of(value[key][0].get<std::string>());
    if (id == kNoToken) bad("the post-processor names a token that is not there");
    return id;
  }

  // Two texts stand as encode_pair puts them: [CLS] A [SEP] B [SEP], kinds 0 and 1.
  void check_pair(const json& value, int depth) const {
    if (!has(value, "pair")) return;
    std::string form;
    for (const json& part : list(value, "pair", depth)) {
      const bool text = has(part, "Sequence");
      const json& inner = object(part, text ? "Sequence" : "SpecialToken");
      const int64_t kind = has(inner, "type_id") ? integer(inner["type_id"], "a type_id") : 0;
      form += (text ? string(inner, "id") : "+") + std::to_string(kind);
    }
    if (form != "+0A0+0B1+1") unsupported("a form of pairs other than BERT's");
  }

  void read_post_processor(const json& value, int depth) {
    const std::string type = string(value, "type");
    if (type == "Sequence") {
      for (const json& step : list(value, "processors", depth)) {
        read_post_processor(step, depth + 1);
      }
    } else if (type == "BertProcessing") {
      spec_.bos = mark_of(value, "cls");
      spec_.eos = mark_of(value, "sep");
      spec_.add_bos = spec_.add_eos = true;
    } else if (type == "TemplateProcessing") {
      if (spec_.kind == TokenizerKind::kWordPiece) check_pair(value, depth);
      spec_.add_bos = spec_.add_eos = false;
      bool before = true;
      for (const json& part : list(value, "single", depth)) {
        if (has(part, "Sequence")) {
          before = false;
          continue;
        }
        const int32_t id = id_of(string(object(part, "SpecialToken"), "id"));
        if (id == kNoToken) bad("the post-processor names a token that is not there");
        int32_t& place = before ? spec_.bos : spec_.eos;
        bool& add = before ? spec_.add_bos : spec_.add_eos;
        if (add) unsupported("a post-processor with two special tokens on one side");
        place = id;
        add = true;
      }
    } else if (type != "ByteLevel") {
      unsupported("the post-processor " + type);
    }
  }

  TokenizerSpec spec_;
  std::map<std::string, int32_t, std::less<>> ids_;
  bool byte_level_ = false;
};

json parse(std::string_view text, const std::string& name) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw Error(ErrorKind::kBadFile, name + ": not JSON: " + error.what());
  }
}

}  // namespace

Tokenizer Tokenizer::from_hf(std::string_view tokenizer_json,
                             std::string_view tokenizer_config_json, const std::string& name) {
  return Tokenizer(read_hf(tokenizer_json, tokenizer_config_json, name));
}

TokenizerSpec Tokenizer::read_hf(std::string_view tokenizer_json,
                                 std::string_view tokenizer_config_json, const std::string& name) {
  const json tokenizer = parse(tokenizer_json, name);
  const json config = tokenizer_config_json.empty()
                          ? json::object()
                          : parse(tokenizer_config_json, name + " (tokenizer_config.json)");
  return Reader(name).read(tokenizer, config);
}

}  // namespace tutti::text
