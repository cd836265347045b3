// Likelihoods of answers under models that fill in masked tokens (sheet 00-dllm, "Likelihood"), by
// masking parts of them; and under causal ones, for comparison, by reading them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace tutti::eval {

struct MaskedText {
  std::vector<int32_t> prompt;  // given: never masked, never scored
  std::vector<int32_t> answer;
};

struct LikelihoodOptions {
  int samples =
      128;  // masks per answer, or per block of one where attention has blocks: at least two rounds
  int strata = 16;       // masks of a round: one forward
  bool exact = false;    // all 2^L - 1 masks of L tokens instead, L <= kMostExact
  int ratio_masks = 16;  // masks per answer (or block) and ratio of the table; 0: no table
  uint64_t seed = 1;
};
inline constexpr int kMostExact = 16;

struct Likelihood {
  // -log p in nats is at most the expectation of nll: for k uniform over 1 … L and k of the L
  // tokens masked, L / k times the masked tokens' cross entropies. That is the mean, over all
  // orders of writing, of what writing the tokens one by one costs. Where attention has blocks: the
  // sum over blocks, each given the ones before. A causal model's nll is -log p itself.
  struct Answer {
    double nll = 0;
    double standard_error = 0;  // of nll, from the spread of rounds; 0 when exact or causal
    int tokens = 0;
  };
  // Every token masked with probability `ratio` by itself.
  struct Ratio {
    double ratio = 0;
    double nll = 0;  // sum over masked tokens, nats
    int64_t masked = 0;
    double per_token() const { return masked > 0 ? nll / double(masked) : 0; }
  };
  std::vector<Answer> answers;  // in the order of the texts
  std::vector<Ratio> ratios;    // 0.1 … 1.0; none of a causal model

  double nll() const;
  double standard_error() const;
  int64_t tokens() const;
};

// `progress` gets the texts done and their number. Throws Error(kUnsupported) for a model that
// is not causal and has no mask token, Error(kUsage) for an empty answer, one too long to be exact,
// options that do not fit, and an answer without a prompt under a causal model or one of shifted
// logits, which say nothing about a first token.
Likelihood likelihood(engine::Engine& engine, std::span<const MaskedText> texts,
                      const LikelihoodOptions& options,
                      const std::function<void(int done, int total)>& progress = {});

// The numbers of tokens that a round of `count` masks covers: first, first + length / count, …
// (rounded) modulo `length`, in 1 … length. Each is uniform when `first` is.
std::vector<int> stratified_counts(int first, int length, int count);

}  // namespace tutti::eval
