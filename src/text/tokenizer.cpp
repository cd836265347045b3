#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/sentencepiece_bpe.h"
#include "text/unigram.h"
#include "text/wordpiece.h"

namespace tutti::text {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

// Texts that end a turn or a document in published models; the first that a vocabulary has is its
// eot.
constexpr std::string_view kEndOfTurn[] = {
    "<|im_end|>", "<|eot_id|>",      "<end_of_turn>",         "<|eot|>", "<turn|>",
    "<|end|>",    "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<EOT>",   "<|return|>",
};
constexpr std::string_view kEndOfText[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<eos>", "<｜end▁of▁sentence｜>", "<|EOT|>",
};

std::string replace_metaspace(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at).starts_with(kMetaspace)) {
      out += ' ';
      at += kMetaspace.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

}  // namespace

Tokenizer::Tokenizer(TokenizerSpec spec) : spec_(std::move(spec)) {
  vocabulary_ = Vocabulary(std::move(spec_.tokens), spec_.name);
  check_ids();
  make_bytes();
  if (spec_.kind == TokenizerKind::kByteLevelBpe || spec_.kind == TokenizerKind::kCharacterBpe)
    make_merges();
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& added : spec_.added) {
    (added.normalized ? normalized : raw).push_back(std::move(added));
  }
  for (AddedToken& added : normalized) added.text = spec_.normalizer.apply(added.text);
  raw_added_ = AddedTokens(std::move(raw), spec_.name);
  normalized_added_ = AddedTokens(std::move(normalized), spec_.name);
  find_end_ids();
  spec_.tokens = {};
  spec_.merges = {};
  spec_.added = {};
}

void Tokenizer::check_ids() const {
  const auto check = [&](int32_t id, std::string_view what, bool optional) {
    if ((optional && id == kNoToken) || vocabulary_.contains(id)) return;
    throw Error(ErrorKind::kBadFile, spec_.name + ": the " + std::string(what) + " token is " +
                                         std::to_string(id) + ", but the vocabulary has " +
                                         std::to_string(vocabulary_.size()) + " tokens");
  };
  check(spec_.bos, "bos", true);
  check(spec_.eos, "eos", true);
  check(spec_.eot, "eot", true);
  check(spec_.unknown, "unknown", true);
  check(spec_.substitute, "substitute", true);
  check(spec_.pad, "pad", true);
  check(spec_.mask, "mask", true);
  for (const AddedToken& added : spec_.added) check(added.id, "added", false);
}

void Tokenizer::make_bytes() {
  const size_t count = size_t(vocabulary_.size());
  const bool byte_level = spec_.kind == TokenizerKind::kByteLevelBpe;
  bytes_.resize(count);
  control_.assign(count, 0);
  byte_ids_.assign(256, kNoToken);
  std::vector<uint8_t> raw(count, 0);  // tokens whose text stands for itself
  for (const AddedToken& added : spec_.added) {
    raw[size_t(added.id)] = 1;
    if (added.special) control_[size_t(added.id)] = 1;
  }
  for (size_t id = 0; id < count; ++id) {
    const Token& token = vocabulary_[int32_t(id)];
    if (token.type == TokenType::kControl || token.type == TokenType::kUnknown) control_[id] = 1;
    if (byte_level) {
      std::optional<std::string> bytes;
      if (!raw[id] && token.type == TokenType::kNormal) bytes = bytes_of_printable(token.text);
      if (bytes && bytes->size() == 1 && byte_ids_[uint8_t((*bytes)[0])] == kNoToken) {
        byte_ids_[uint8_t((*bytes)[0])] = int32_t(id);
      }
      bytes_[id] = bytes ? *bytes : token.text;
      continue;
    }
    const int byte = byte_of_token(token.text);
    if (token.type == TokenType::kByte) {
      if (byte < 0) {
        throw Error(ErrorKind::kBadFile, spec_.name + ": token " + std::to_string(id) +
                                             " is a byte token, but its text is not <0xHH>");
      }
      byte_ids_[size_t(byte)] = int32_t(id);
      bytes_[id] = std::string(1, char(byte));
    } else if (spec_.decoding.words) {
      bytes_[id] = word_bytes(token.text, spec_.continuing_prefix, spec_.decoding.cleanup);
    } else if (spec_.decoding.metaspace && token.type != TokenType::kControl) {
      bytes_[id] = replace_metaspace(token.text);
    } else {
      bytes_[id] = token.text;
    }
  }
  if (byte_level && spec_.ignore_merges) {
    std::vector<Token> whole;
    for (size_t id = 0; id < count; ++id) {
      if (raw[id] || vocabulary_[int32_t(id)].type != TokenType::kNormal) continue;
      whole.push_back({bytes_[id], 0, TokenType::kNormal});
      whole_ids_.push_back(int32_t(id));
    }
    if (!whole.empty()) whole_pieces_ = Vocabulary(std::move(whole), spec_.name);
  }
}

void Tokenizer::make_merges() {
  std::vector<Bpe::Merge> merges;
  merges.reserve(spec_.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const auto& [left, right] = spec_.merges[rank];
    joined.assign(left).append(right);
    const Bpe::Merge merge{vocabulary_.find(left), vocabulary_.find(right),
                           vocabulary_.find(joined)};
    if (merge.left == kNoToken || merge.right == kNoToken || merge.result == kNoToken) {
      const std::string& missing = merge.left == kNoToken    ? left
                                   : merge.right == kNoToken ? right
                                                             : joined;
      throw Error(ErrorKind::kBadFile, spec_.name + ": merge " + std::to_string(rank) +
                                           " needs \"" +
                                           replace_malformed_utf8(missing).substr(0, 64) +
                                           "\", which is not in the vocabulary");
    }
    merges.push_back(merge);
  }
  bpe_ = Bpe(merges);
}

void Tokenizer::find_end_ids() {
  const auto control = [&](std::string_view text) {
    const int32_t id = vocabulary_.find(text);
    if (id == kNoToken) return kNoToken;
    const bool ordinary = vocabulary_[id].type == TokenType::kNormal && !control_[size_t(id)];
    return ordinary ? kNoToken : id;
  };
  for (const std::string_view text : kEndOfTurn) {
    const int32_t id = control(text);
    if (id == kNoToken) continue;
    if (spec_.eot == kNoToken) spec_.eot = id;
    add_end_id(id);
  }
  for (const std::string_view text : kEndOfText) {
    const int32_t id = control(text);
    if (id != kNoToken) add_end_id(id);
  }
  if (spec_.eos != kNoToken) add_end_id(spec_.eos);
  if (spec_.eot != kNoToken) add_end_id(spec_.eot);
}

void Tokenizer::add_end_id(int32_t id) {
  if (!vocabulary_.contains(id)) {
    throw Error(ErrorKind::kUsage, spec_.name + ": no token " + std::to_string(id) +
                                       " to end at; the vocabulary has " +
                                       std::to_string(vocabulary_.size()));
  }
  const auto place = std::lower_bound(end_ids_.begin(), end_ids_.end(), id);
  if (place == end_ids_.end() || *place != id) end_ids_.insert(place, id);
}

bool Tokenizer::is_end(int32_t id) const {
  return std::binary_search(end_ids_.begin(), end_ids_.end(), id);
}

std::string_view Tokenizer::kind_name() const {
  switch (spec_.kind) {
    case TokenizerKind::kByteLevelBpe:
      return "byte-level BPE";
    case TokenizerKind::kCharacterBpe:
      return "BPE with byte fallback";
    case TokenizerKind::kSentencePieceBpe:
      return "SentencePiece BPE";
    case TokenizerKind::kUnigram:
      return "SentencePiece unigram";
    case TokenizerKind::kWordPiece:
      return "WordPiece";
  }
  return "";
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (!vocabulary_.contains(id)) {
    throw Error(ErrorKind::kUsage, spec_.name + ": no token " + std::to_string(id) +
                                       "; the vocabulary has " +
                                       std::to_string(vocabulary_.size()));
  }
  return bytes_[size_t(id)];
}

bool Tokenizer::is_control(int32_t id) const {
  return vocabulary_.contains(id) && control_[size_t(id)] != 0;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> ids;
  if (options.add_bos && spec_.bos != kNoToken) ids.push_back(spec_.bos);
  size_t done = 0;
  for (const AddedTokens::Found& found : raw_added_.find(text, options.parse_special)) {
    encode_segment(text.substr(done, found.range.begin - done), done == 0, options, ids);
    ids.push_back(found.id);
    done = found.range.end;
  }
  encode_segment(text.substr(done), done == 0, options, ids);
  if (options.add_eos && spec_.eos != kNoToken) ids.push_back(spec_.eos);
  return ids;
}

Tokenizer::Pair Tokenizer::encode_pair(std::string_view first, std::string_view second) const {
  if (spec_.bos == kNoToken || spec_.eos == kNoToken) {
    throw Error(ErrorKind::kUnsupported,
                spec_.name +
                    ": has no tokens that stand around two texts; use the tokenizer of a "
                    "model that reads pairs");
  }
  EncodeOptions options;
  options.add_bos = options.add_eos = true;
  Pair pair;
  pair.ids = encode(first, options);
  pair.second = int(pair.ids.size());
  options.add_bos = false;
  const std::vector<int32_t> rest = encode(second, options);
  pair.ids.insert(pair.ids.end(), rest.begin(), rest.end());
  return pair;
}

void Tokenizer::encode_segment(std::string_view text, bool first, const EncodeOptions& options,
                               std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  if (spec_.spiece) {
    encode_unigram(vocabulary_, byte_ids_, spec_.substitute,
                   spec_.spiece->apply(text, options.continues), ids);
    return;
  }
  first = first && !options.continues;
  std::string normalized;
  if ((!options.continues && spec_.space_prefix == PrefixScheme::kAlways) ||
      (spec_.space_prefix == PrefixScheme::kFirst && first)) {
    normalized = spec_.normalizer.apply(" " + std::string(text));
  } else {
    normalized = spec_.normalizer.apply(text);
  }
  if (normalized_added_.empty()) {
    encode_normalized(std::move(normalized), first, ids);
    return;
  }
  size_t done = 0;
  for (const AddedTokens::Found& found :
       normalized_added_.find(normalized, options.parse_special)) {
    encode_normalized(normalized.substr(done, found.range.begin - done), first && done == 0, ids);
    ids.push_back(found.id);
    done = found.range.end;
  }
  encode_normalized(normalized.substr(done), first && done == 0, ids);
}

void Tokenizer::encode_normalized(std::string text, bool first, std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  const PreTokens pieces = spec_.pre_tokenizer.split(std::move(text), first);
  std::vector<int32_t> symbols;
  for (size_t i = 0; i < pieces.pieces.size(); ++i) encode_piece(pieces.view(i), symbols, ids);
}

void Tokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& symbols,
                             std::vector<int32_t>& ids) const {
  if (spec_.kind == TokenizerKind::kWordPiece) {
    const WordPieceRules rules{spec_.continuing_prefix, spec_.longest_word, spec_.substitute};
    encode_wordpiece(vocabulary_, rules, piece, ids);
    return;
  }
  if (spec_.kind == TokenizerKind::kSentencePieceBpe) {
    encode_sentencepiece(vocabulary_, byte_ids_, spec_.substitute, piece, ids);
    return;
  }
  if (spec_.ignore_merges) {
    int32_t whole = kNoToken;
    if (spec_.kind == TokenizerKind::kByteLevelBpe) {
      const int32_t at = whole_pieces_.find(piece);
      if (at != kNoToken) whole = whole_ids_[size_t(at)];
    } else {
      whole = vocabulary_.find(piece);
    }
    if (whole != kNoToken) {
      ids.push_back(whole);
      return;
    }
  }
  symbols.clear();
  spell(piece, symbols);
  bpe_.merge(symbols);
  for (const int32_t symbol : symbols) {
    if (symbol != kNoToken) ids.push_back(symbol);
  }
}

// The symbols that merging starts from.
void Tokenizer::spell(std::string_view piece, std::vector<int32_t>& symbols) const {
  bool in_unknown = false;
  const auto unknown = [&] {
    if (spec_.substitute != kNoToken && !(in_unknown && spec_.fuse_substitutes)) {
      symbols.push_back(spec_.substitute);
    }
    in_unknown = true;
  };
  if (spec_.kind == TokenizerKind::kByteLevelBpe) {
    for (const char byte : piece) {
      const int32_t id = byte_ids_[uint8_t(byte)];
      if (id == kNoToken) {
        unknown();
      } else {
        symbols.push_back(id);
        in_unknown = false;
      }
    }
    return;
  }
  for (size_t at = 0; at < piece.size();) {
    const Decoded decoded = decode_utf8(piece, at);
    const std::string_view character = piece.substr(at, decoded.length);
    at += decoded.length;
    const int32_t id = decoded.valid ? vocabulary_.find(character) : kNoToken;
    if (id != kNoToken) {
      symbols.push_back(id);
      in_unknown = false;
      continue;
    }
    const bool spelled = std::all_of(character.begin(), character.end(), [&](char byte) {
      return byte_ids_[uint8_t(byte)] != kNoToken;
    });
    if (!spelled) {
      unknown();
      continue;
    }
    for (const char byte : character) symbols.push_back(byte_ids_[uint8_t(byte)]);
    in_unknown = false;
  }
}

std::string_view Tokenizer::first_bytes(int32_t id) const {
  std::string_view bytes = token_bytes(id);
  // As the file has it, also of a token that goes on with a word.
  if (spec_.decoding.words) return vocabulary_[id].text;
  if (control_[size_t(id)] == 0 && spec_.decoding.strip_first_space && bytes.starts_with(' '))
    bytes.remove_prefix(1);
  return bytes;
}

std::string Tokenizer::decode_bytes(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  bool first = true;
  for (const int32_t id : ids) {
    const std::string_view bytes = first ? first_bytes(id) : token_bytes(id);
    if (control_[size_t(id)] != 0 && skip_special) continue;
    first = false;
    out += bytes;
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  return replace_malformed_utf8(decode_bytes(ids, skip_special), spec_.decoding.malformed);
}

}  // namespace tutti::text
