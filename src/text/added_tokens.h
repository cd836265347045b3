// Tokens that are found in the raw text before anything else happens to it: control tokens such as
// <|im_end|> and user-defined ones. Leftmost first, longest on ties, as `tokenizers` matches them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/regex.h"

namespace tutti::text {

struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;  // a control token: taken from text only on request, hidden when decoding
  bool normalized = false;   // looked for after normalisation instead of before
  bool lstrip = false;       // swallows white space to its left
  bool rstrip = false;       // and to its right
  bool single_word = false;  // only where no word character touches it
};

class AddedTokens {
 public:
  // Longer texts are refused: what has to be looked for at every place of a text has to be short.
  static constexpr size_t kMaxText = 4096;

  AddedTokens() = default;
  // Empty texts are ignored. Throws Error(kBadFile) naming `name` when one is longer than kMaxText.
  AddedTokens(std::vector<AddedToken> tokens, const std::string& name);

  struct Found {
    Range range;  // with the white space that lstrip and rstrip take
    int32_t id;
  };
  // In order, not overlapping. Special tokens only when `special`. The text may be any bytes.
  std::vector<Found> find(std::string_view text, bool special) const;

  bool empty() const { return tokens_.empty(); }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> next;
    int32_t token = -1;  // index in tokens_
  };

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<uint32_t, 256> first_{};  // node after the first byte; 0: none
};

}  // namespace tutti::text
