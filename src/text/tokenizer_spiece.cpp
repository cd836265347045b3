// Tokenizers from SentencePiece's own model files: protocol buffers, of which the few fields that
// decide anything are read.
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "text/tokenizer.h"

namespace tutti::text {
namespace {

// The fields of one message, one after the other.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  // Goes to the next field; false at the end.
  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t key = varint();
    number_ = key >> 3;
    switch (key & 7) {
      case 0:
        value_ = varint();
        break;
      case 1:
        text_ = take(8);
        break;
      case 2:
        text_ = take(varint());
        break;
      case 5:
        text_ = take(4);
        break;
      default:
        bad("has a field of an unknown kind");
    }
    kind_ = int(key & 7);
    return true;
  }
  uint64_t number() const { return number_; }
  uint64_t integer() const { return of_kind(0), value_; }
  std::string_view text() const { return of_kind(2), text_; }
  float real() const {
    of_kind(5);
    float x;
    std::memcpy(&x, text_.data(), sizeof x);
    return x;
  }

  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorKind::kBadFile,
                name_ + ": " + what + "; it is no SentencePiece model or damaged, fetch it again");
  }

 private:
  void of_kind(int kind) const {
    if (kind_ != kind) bad("field " + std::to_string(number_) + " is of another kind");
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) bad("is truncated");
      const uint8_t byte = uint8_t(bytes_.front());
      bytes_.remove_prefix(1);
      value |= uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    bad("has a number that is too long");
  }
  std::string_view take(uint64_t size) {
    if (size > bytes_.size()) bad("is truncated");
    const std::string_view out = bytes_.substr(0, size_t(size));
    bytes_.remove_prefix(size_t(size));
    return out;
  }

  std::string_view bytes_;
  const std::string& name_;
  uint64_t number_ = 0, value_ = 0;
  std::string_view text_;
  int kind_ = -1;
};

Token read_piece(std::string_view bytes, const std::string& name) {
  Token token;
  Message m(bytes, name);
  while (m.next()) {
    if (m.number() == 1) token.text = m.text();
    if (m.number() == 2) token.score = m.real();
    if (m.number() == 3) {
      if (m.integer() < 1 || m.integer() > 6) m.bad("a piece has an unknown type");
      token.type = TokenType(m.integer());  // GGUF took its numbers from here
    }
  }
  return token;
}

void read_trainer(std::string_view bytes, const std::string& name, SpieceNormalizer::Spec& spec) {
  uint64_t model = 1;
  Message m(bytes, name);
  while (m.next()) {
    if (m.number() == 3) model = m.integer();
    if (m.number() == 24) spec.space_is_suffix = m.integer() != 0;
  }
  if (model == 1) return;
  throw Error(
      ErrorKind::kUnsupported,
      name +
          ": is a SentencePiece model of another kind than unigram; convert it to tokenizer.json");
}

void read_normalizer(std::string_view bytes, const std::string& name,
                     SpieceNormalizer::Spec& spec) {
  Message m(bytes, name);
  while (m.next()) {
    if (m.number() == 2) spec.charsmap = m.text();
    if (m.number() == 3) spec.dummy_prefix = m.integer() != 0;
    if (m.number() == 4) spec.remove_extra_spaces = m.integer() != 0;
    if (m.number() == 5) spec.escape_spaces = m.integer() != 0;
  }
}

// A special token of tokenizer_config.json, else the piece of the usual name.
int32_t special(const nlohmann::json& config, const char* key, const char* usual,
                const std::vector<Token>& tokens) {
  std::string text = usual;
  if (config.is_object() && config.contains(key)) {
    const auto& value = config[key];
    if (value.is_string()) text = value.get<std::string>();
    if (value.is_object() && value.contains("content") && value["content"].is_string()) {
      text = value["content"].get<std::string>();
    }
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].text == text) return int32_t(id);
  }
  return kNoToken;
}

}  // namespace

Tokenizer Tokenizer::from_spiece(std::string_view model, std::string_view tokenizer_config_json,
                                 const std::string& name) {
  TokenizerSpec spec;
  spec.name = name;
  spec.family = "spm unigram";
  spec.kind = TokenizerKind::kUnigram;
  spec.decoding.metaspace = true;
  SpieceNormalizer::Spec normalizer;
  Message m(model, name);
  while (m.next()) {
    if (m.number() == 1) {
      if (spec.tokens.size() >= Vocabulary::kMaxTokens) m.bad("has too many pieces");
      spec.tokens.push_back(read_piece(m.text(), name));
    }
    if (m.number() == 2) read_trainer(m.text(), name, normalizer);
    if (m.number() == 3) read_normalizer(m.text(), name, normalizer);
  }
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const Token& token = spec.tokens[id];
    if (token.text.empty()) m.bad("piece " + std::to_string(id) + " is empty");
    if (token.type == TokenType::kUnknown && spec.unknown == kNoToken) spec.unknown = int32_t(id);
    if (token.type == TokenType::kUserDefined) normalizer.user_defined.push_back(token.text);
  }
  if (spec.unknown == kNoToken) m.bad("has no piece for what is unknown");
  spec.substitute = spec.unknown;
  spec.decoding.strip_first_space = normalizer.dummy_prefix;
  spec.spiece = std::make_shared<const SpieceNormalizer>(std::move(normalizer), name);
  nlohmann::json config;
  try {
    if (!tokenizer_config_json.empty()) config = nlohmann::json::parse(tokenizer_config_json);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kBadFile, name + " (tokenizer_config.json): not JSON: " + error.what());
  }
  spec.bos = special(config, "bos_token", "<s>", spec.tokens);
  spec.eos = special(config, "eos_token", "</s>", spec.tokens);
  spec.pad = special(config, "pad_token", "<pad>", spec.tokens);
  spec.mask = special(config, "mask_token", "<mask>", spec.tokens);
  return Tokenizer(std::move(spec));
}

}  // namespace tutti::text
