// From examples to what one step computes: rows with noise drawn on them, which rows predict which
// tokens, and with what weight. Every loss here is sum(weight * cross entropy), of kCertainty with
// certainty * (mean entropy of the predictions that are right) for each sequence besides.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/config.h"
#include "train/examples.h"
#include "train/loss_options.h"
#include "train/sequence.h"

namespace tutti::train {

struct LossSequence {
  Sequence sequence;
  std::vector<int> predicted;    // rows whose logits are wanted, ascending
  std::vector<int32_t> targets;  // of each
  std::vector<double> weights;   // of each, the mean's divisor and the time weight together
  std::vector<double> rates;     // p of the whole sequence, or of each block; empty for kNextToken
  double certainty = 0;          // of kCertainty
};

// Throws Error(kUsage) when the loss does not go with how the model sees and predicts.
void check_loss(const LossOptions& options, const models::Config& config);

// All sequences of one step, one per example in their order (of kCertainty two). The examples are
// numbers `first` and following of the run; the noise of an example depends on (seed, number)
// alone.
std::vector<LossSequence> loss_sequences(const LossOptions& options, const models::Config& config,
                                         std::span<const Example> examples, uint64_t seed,
                                         uint64_t first);

// Dream's context-adaptive weights: of each masked token, sum over unmasked j of 1/2 q (1 - q)^(|i
// - j| - 1); 0 for unmasked ones.
std::vector<double> context_weights(const std::vector<bool>& masked, double q);

}  // namespace tutti::train
