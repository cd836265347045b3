// The tokens of a model: id -> text, score, type, and text -> id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::text {

// The token types of GGUF files (and of SentencePiece), with GGUF's numbers.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Token {
  std::string text;  // as the file writes it: byte-level tokens in their printable alphabet
  float score = 0;   // SentencePiece: higher merges first
  TokenType type = TokenType::kNormal;
};

inline constexpr int32_t kNoToken = -1;

// The byte that "<0xHH>" names, or -1 for any other text: a sign or a single digit makes no byte
// token.
int byte_of_token(std::string_view text);

class Vocabulary {
 public:
  // More tokens than any published model by a wide margin; a larger count is a hostile file.
  static constexpr size_t kMaxTokens = size_t(1) << 21;

  Vocabulary() = default;
  // Ids are the indices of `tokens`. Of equal texts the lowest id is found. `name` stands for the
  // file in errors. Throws Error(kBadFile): empty, too many tokens, a score that is not a number.
  Vocabulary(std::vector<Token> tokens, const std::string& name);

  int32_t size() const { return int32_t(tokens_.size()); }
  const Token& operator[](int32_t id) const { return tokens_[size_t(id)]; }
  bool contains(int32_t id) const { return id >= 0 && id < size(); }
  // The id of a text, or kNoToken.
  int32_t find(std::string_view text) const;
  size_t longest() const { return longest_; }  // bytes of the longest token

 private:
  std::vector<Token> tokens_;
  std::vector<int32_t> slots_;  // open addressing by hash of the text; a power of two long
  size_t longest_ = 0;
};

}  // namespace tutti::text
