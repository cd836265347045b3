// Logits of a head that has some tokens of the vocabulary only (Config::head_tokens).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

namespace tutti::models {

// From logits by row of the head to logits by token, [vocab]: `tokens`, ascending, names the token
// of each row; what the head does not have gets -infinity.
inline void spread(std::span<const int32_t> tokens, std::span<const float> rows,
                   std::span<float> logits) {
  std::ranges::fill(logits, -std::numeric_limits<float>::infinity());
  for (size_t row = 0; row < tokens.size(); ++row) logits[size_t(tokens[row])] = rows[row];
}

}  // namespace tutti::models
