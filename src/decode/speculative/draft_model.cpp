#include "decode/speculative/draft_model.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "base/error.h"

namespace tutti::decode::speculative {

namespace {

// Vocabularies are padded to round sizes, but not by more than this.
constexpr int kMostPadding = 512;

[[noreturn]] void differ(const std::string& how) {
  throw Error(
      ErrorKind::kUnsupported,
      "draft model: " + how + "; use a draft model of the same family, with the same tokenizer");
}

int common_tokens(const text::Vocabulary& draft, const text::Vocabulary& target) {
  const int common = std::min(draft.size(), target.size());
  if (std::abs(draft.size() - target.size()) > kMostPadding) {
    differ("its vocabulary has " + std::to_string(draft.size()) + " tokens, the model's " +
           std::to_string(target.size()));
  }
  for (int id = 0; id < common; ++id) {
    if (draft[id].text == target[id].text) continue;
    differ("its token " + std::to_string(id) + " is '" + draft[id].text + "', the model's is '" +
           target[id].text + "'");
  }
  return common;
}

std::shared_ptr<const std::vector<uint64_t>> bits_of(const std::vector<int32_t>& tokens,
                                                     int vocabulary) {
  if (tokens.empty()) return nullptr;
  auto bits = std::make_shared<std::vector<uint64_t>>(size_t(vocabulary + 63) / 64);
  for (const int32_t token : tokens) (*bits)[size_t(token / 64)] |= uint64_t(1) << (token % 64);
  return bits;
}

std::string list(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : ", ") + std::to_string(id);
  return text.empty() ? "none" : text;
}

}  // namespace

DraftModel::DraftModel(std::shared_ptr<engine::Engine> engine, const text::Tokenizer& tokenizer,
                       const text::Tokenizer& target, std::shared_ptr<DraftCores> cores)
    : engine_(std::move(engine)),
      vocabulary_(common_tokens(tokenizer.vocabulary(), target.vocabulary())),
      cores_(std::move(cores)) {
  const auto& config = engine_->model().config();
  if (config.attention != models::AttentionKind::kCausal) {
    throw Error(ErrorKind::kUnsupported, "draft model: " + config.architecture +
                                             " fills in masked tokens; a causal one can draft");
  }
  vocabulary_ = std::min(vocabulary_, config.vocab);
  head_tokens_ = bits_of(config.head_tokens, config.vocab);
  std::vector<int32_t> ends = tokenizer.end_ids(), target_ends = target.end_ids();
  std::sort(ends.begin(), ends.end());
  std::sort(target_ends.begin(), target_ends.end());
  if (ends != target_ends)
    differ("its texts end with tokens " + list(ends) + ", the model's with " + list(target_ends));
}

}  // namespace tutti::decode::speculative
