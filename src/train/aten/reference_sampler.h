// The masked models' reference sampler (sheet 00): semi-autoregressive, most confident first, at
// temperature 0. Every forward is over whole sequences; it measures what training reached and is no
// way to serve.
#pragma once

#include <vector>

#include "models/aten/tensor_ops.h"
#include "train/examples.h"

namespace tutti::train {

struct SamplerOptions {
  int length = 0;  // tokens of a sequence, prompt included
  int block = 0;  // blocks of this many tokens from position 0 on are finished one after the other;
                  // 0: all at once
  int steps =
      0;  // forwards of one answer, shared out over its blocks by their tokens; 0: one per token
};

// The sequences of all prompts, each `length` tokens. A causal model writes from left to right
// (blocks of one). The mask token is never written; of equal confidences the first position wins.
std::vector<std::vector<int32_t>> reference_sample(const models::Config& config,
                                                   const models::TensorWeights& weights,
                                                   const std::vector<std::vector<int32_t>>& prompts,
                                                   const SamplerOptions& options);

}  // namespace tutti::train
