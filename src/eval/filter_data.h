// What Learn2PD's filter learns from (sheet 32): problems decoded by the reference sampler, then
// once more by the oracle that writes whatever is right, with the model's probabilities on the way.
#pragma once

#include <functional>
#include <vector>

#include "decode/diffusion/oracle.h"
#include "decode/generation.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace tutti::eval {

struct FilterData {
  std::vector<decode::diffusion::FilterRecord> records;
  int answers = 0;
  uint64_t static_forwards = 0;  // of the reference sampler
  uint64_t oracle_forwards = 0;
  int stuck = 0;   // times that the oracle had to write the reference
  int differ = 0;  // answers in which the two disagree: none, or something is wrong
};

// `how`: method diffusion; block_length and cache are taken from its options. Throws what
// generate() throws.
FilterData collect_filter_data(engine::Engine& engine, const text::Tokenizer& tokenizer,
                               const std::vector<std::vector<int32_t>>& prompts,
                               const decode::GenerationOptions& how,
                               const std::function<void(int)>& progress);

}  // namespace tutti::eval
