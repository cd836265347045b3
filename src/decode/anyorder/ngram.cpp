#include "decode/anyorder/ngram.h"

namespace tutti::decode::anyorder {

NgramDraft::NgramDraft(std::span<const int32_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) continue;
    ++single_[tokens[i]];
    if (i > 0 && tokens[i - 1] >= 0) ++following_[tokens[i - 1]][tokens[i]];
  }
}

engine::Distribution NgramDraft::after(int32_t left) const {
  const auto known = following_.find(left);
  const Counts& counts = left >= 0 && known != following_.end() ? known->second : single_;
  engine::Distribution out;
  double total = 0;
  for (const auto& [token, count] : counts) total += count;
  for (const auto& [token, count] : counts) {
    out.ids.push_back(token);
    out.probabilities.push_back(count / total);
  }
  return out;
}

}  // namespace tutti::decode::anyorder
