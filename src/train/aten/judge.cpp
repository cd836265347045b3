#include "train/aten/judge.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "base/hash.h"
#include "train/anchored.h"
#include "train/aten/head_loss.h"
#include "train/aten/prompt_tokens.h"
#include "train/aten/transfer.h"

namespace tutti::train {
namespace {

// As train::fingerprint has it of a file.
uint64_t fingerprint_of(const models::TensorWeights& weights) {
  const at::Tensor norm = weights.output_norm.to(at::kCPU, at::kFloat).contiguous();
  return xxh64(std::as_bytes(std::span(norm.data_ptr<float>(), size_t(norm.numel()))));
}

// The best guesses of each row of `states`.
void add_guesses(const at::Tensor& states, const at::Tensor& head, const LossSequence& sequence,
                 int offsets, std::vector<Guessed>& guesses) {
  const int64_t chunk = head_chunk_rows(head.size(0), head.device());
  for (int64_t first = 0; first < states.size(0); first += chunk) {
    const int64_t n = std::min(chunk, states.size(0) - first);
    const int64_t ranks = std::min<int64_t>(GuessReport::kRanks, head.size(0));
    const auto [logits, tokens] = states.narrow(0, first, n).matmul(head.t()).topk(ranks, 1);
    const at::Tensor logits_here = logits.cpu(), tokens_here = tokens.cpu();
    const auto logit = logits_here.accessor<float, 2>();
    const auto token = tokens_here.accessor<int64_t, 2>();
    for (int64_t r = 0; r < n; ++r) {
      Guessed g;
      g.offset = int((first + r) % offsets);
      g.target = sequence.targets[size_t(first + r)];
      for (int64_t k = 0; k < ranks; ++k) {
        g.tokens.push_back(token[r][k]);
        g.logits.push_back(logit[r][k]);
      }
      guesses.push_back(std::move(g));
    }
  }
}

}  // namespace

std::unique_ptr<const Guesser> make_guesser(const Recipe& recipe, const models::Config& config,
                                            const models::TensorWeights& weights,
                                            const Vocabulary& vocabulary) {
  if (recipe.loss.kind == LossKind::kPromptTokens)
    return std::make_unique<PromptTokens>(recipe.loss, weights, vocabulary, recipe.bf16);
  if (recipe.loss.kind == LossKind::kTransfer)
    return std::make_unique<Transfer>(recipe.loss, config, weights, fingerprint_of(weights),
                                      recipe.bf16);
  return nullptr;
}

GuessReport judge_guesser(const Guesser& guesser, const models::Config& config,
                          const Recipe& recipe, std::span<const Example> texts,
                          const std::vector<at::Tensor>& values, const at::Tensor& head) {
  const at::NoGradGuard no_gradients;
  std::vector<Guessed> guesses;
  for (size_t i = 0; i < texts.size(); ++i) {
    const LossSequence one = anchored(recipe.loss, config, texts[i], recipe.seed, i);
    if (one.predicted.empty()) continue;
    const at::Tensor states =
        guesser.states(config, std::span(&one, 1), values, recipe.bf16).student;
    add_guesses(states, head, one, recipe.loss.ahead, guesses);
  }
  return judge_guesses(guesses, recipe.loss.ahead);
}

}  // namespace tutti::train
