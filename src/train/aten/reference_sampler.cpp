#include "train/aten/reference_sampler.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "train/sequence.h"

namespace tutti::train {
namespace {

// One answer in the making.
class Canvas {
 public:
  Canvas(const std::vector<int32_t>& prompt, const SamplerOptions& o, int32_t blank)
      : options_(o), tokens_(prompt), open_(size_t(o.length), false) {
    tokens_.resize(size_t(o.length), blank);
    std::fill(open_.begin() + ptrdiff_t(prompt.size()), open_.end(), true);
    answer_ = o.length - int(prompt.size());
    enter(int(prompt.size()));
  }

  bool done() const { return begin_ >= options_.length; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // Open positions of the block, ascending.
  std::vector<int> wanted() const {
    std::vector<int> out;
    for (int i = begin_; i < end_; ++i) {
      if (open_[size_t(i)]) out.push_back(i);
    }
    return out;
  }
  // What the model proposes for wanted(): the share of this step is written.
  void commit(const std::vector<int>& positions, const int64_t* tokens, const float* confidences) {
    std::vector<size_t> order(positions.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return confidences[a] > confidences[b]; });
    const size_t share = (order.size() + size_t(steps_left_) - 1) / size_t(steps_left_);
    --steps_left_;
    for (size_t i = 0; i < share; ++i) {
      const auto at = size_t(positions[order[i]]);
      tokens_[at] = int32_t(tokens[order[i]]);
      open_[at] = false;
    }
    if (share == order.size()) enter(end_);
  }

 private:
  void enter(int begin) {
    begin_ = begin;
    end_ = options_.block > 0
               ? std::min(options_.length, (begin / options_.block + 1) * options_.block)
               : options_.length;
    const int tokens = end_ - begin_;
    const double steps = options_.steps > 0 ? double(options_.steps) * tokens / answer_ : tokens;
    steps_left_ = std::clamp(int(std::lround(steps)), 1, std::max(tokens, 1));
  }

  const SamplerOptions& options_;
  std::vector<int32_t> tokens_;
  std::vector<bool> open_;
  int answer_ = 0, begin_ = 0, end_ = 0, steps_left_ = 0;
};

// One forward of all canvases, and what each makes of it.
void advance(const models::Config& config, const models::TensorWeights& weights,
             std::vector<Canvas*>& canvases, bool shifted) {
  std::vector<Sequence> sequences;
  std::vector<std::vector<int>> wanted;
  std::vector<int> rows;
  int base = 0;
  for (const Canvas* c : canvases) {
    sequences.push_back(plain_sequence(config, c->tokens()));
    wanted.push_back(c->wanted());
    for (const int i : wanted.back()) rows.push_back(base + i - (shifted ? 1 : 0));
    base += sequences.back().rows();
  }
  models::Batch batch = plan_batch(config, sequences);
  batch.head_rows = rows;
  models::TensorKv nothing(config, 0);
  at::Tensor logits = models::tensor_forward(config, weights, batch, nothing).logits;
  if (config.mask_token >= 0) logits.select(1, config.mask_token).fill_(-INFINITY);
  const auto [best, best_token] = logits.softmax(-1).max(-1);
  const at::Tensor confidence = best.cpu(), token = best_token.cpu();
  const int64_t* tokens = token.data_ptr<int64_t>();
  const float* confidences = confidence.data_ptr<float>();
  for (size_t i = 0; i < canvases.size(); ++i) {
    canvases[i]->commit(wanted[i], tokens, confidences);
    tokens += wanted[i].size();
    confidences += wanted[i].size();
  }
}

}  // namespace

std::vector<std::vector<int32_t>> reference_sample(const models::Config& config,
                                                   const models::TensorWeights& weights,
                                                   const std::vector<std::vector<int32_t>>& prompts,
                                                   const SamplerOptions& given) {
  constexpr size_t kTogether = 64;
  const at::NoGradGuard no_gradients;
  const bool causal = config.attention == models::AttentionKind::kCausal;
  const bool shifted = causal || config.shifted_logits;
  SamplerOptions options = given;
  if (causal) options.block = 1;
  std::vector<Canvas> all;
  for (const auto& prompt : prompts) {
    if (prompt.size() < size_t(shifted ? 1 : 0) || int(prompt.size()) > options.length) {
      throw Error(ErrorKind::kUsage, "sampler: a prompt of " + std::to_string(prompt.size()) +
                                         " tokens does not fit sequences of " +
                                         std::to_string(options.length));
    }
    all.emplace_back(prompt, options, causal ? 0 : config.mask_token);
  }
  for (size_t first = 0; first < all.size(); first += kTogether) {
    std::vector<Canvas*> open;
    const auto collect = [&] {
      open.clear();
      for (size_t i = first; i < std::min(all.size(), first + kTogether); ++i) {
        if (!all[i].done()) open.push_back(&all[i]);
      }
      return !open.empty();
    };
    while (collect()) advance(config, weights, open, shifted);
  }
  std::vector<std::vector<int32_t>> out;
  for (const Canvas& c : all) out.push_back(c.tokens());
  return out;
}

}  // namespace tutti::train
