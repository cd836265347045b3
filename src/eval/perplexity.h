// Teacher-forced log-probabilities of a text, in disjoint windows.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "decode/generation.h"
#include "engine/engine.h"

namespace tutti::eval {

struct PerplexityOptions {
  int window = 512;  // text tokens per window; windows do not overlap and share no context
  int32_t bos = -1;  // >= 0: read before each window, and every token of it is scored
};

struct Perplexity {
  double nll = 0;      // sum of the scored tokens' negative log-probabilities, in nats
  int64_t tokens = 0;  // scored
  double ppl() const;
};

// Windows run one after the other, each as one splittable prompt. `progress` gets the windows done
// and their number. A model without BOS does not score a window's first token. Throws Error(kUsage)
// for an empty text.
Perplexity perplexity(engine::Engine& engine, std::span<const int32_t> tokens,
                      const PerplexityOptions& options,
                      const std::function<void(int done, int total)>& progress = {});

// The logits [rows.size(), vocab] of one window, row by row to `sink`. A model that fills in masked
// tokens sees the window as it was trained to, from both sides or in blocks; its rows are not
// shifted, even if row i speaks of token i + 1. `given`: vectors in place of some tokens, and
// positions.
void window_logits(engine::Engine& engine, std::span<const int32_t> rows,
                   const std::function<void(int row, std::span<const float> logits)>& sink,
                   const decode::PromptRows* given = nullptr);

}  // namespace tutti::eval
