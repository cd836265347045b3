#include "text/detokenizer.h"

#include <utility>

namespace tutti::text {

std::string StreamingDetokenizer::push(int32_t id) {
  const std::string_view bytes = first_ ? tokenizer_->first_bytes(id) : tokenizer_->token_bytes(id);
  if (tokenizer_->is_control(id) && skip_special_) return {};
  first_ = false;
  pending_ += bytes;
  const size_t held = incomplete_utf8_suffix(pending_);
  const std::string_view whole = std::string_view(pending_).substr(0, pending_.size() - held);
  std::string out = replace_malformed_utf8(whole, tokenizer_->decoding().malformed);
  pending_.erase(0, whole.size());
  return out;
}

std::string StreamingDetokenizer::flush() {
  std::string out = replace_malformed_utf8(pending_, tokenizer_->decoding().malformed);
  pending_.clear();
  first_ = true;
  return out;
}

}  // namespace tutti::text
