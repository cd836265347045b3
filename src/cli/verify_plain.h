// `--verify-only`: what a method wrote, against plain decoding of the same requests.
#pragma once

#include <span>
#include <vector>

#include "decode/generation.h"

namespace tutti::cli {

// One request that a method has answered.
struct PlainCheck {
  size_t line = 0;  // of the file of prompts; 0: the only one
  const std::vector<int32_t>* prompt = nullptr;
  const decode::GenerationOptions* options = nullptr;  // with a seed
  const std::vector<decode::Completion>* completions = nullptr;
};

// Gives a request without a seed one, so that it can be run again.
void fix_seed(decode::GenerationOptions& options);

// Runs them all by plain decoding, side by side, and returns the number of tokens compared. Throws
// Error(kLimit) naming the first place that differs, and what plain decoding throws.
size_t verify_plain(engine::Engine& engine, const text::Tokenizer& tokenizer,
                    std::span<const PlainCheck> checks);

}  // namespace tutti::cli
