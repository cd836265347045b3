// What a causal model says of a text that it did not write.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace tutti::decode {

// Log-probabilities, in nats under the softmax of the logits as they came, of each of `tokens` but
// the first, and of the `alternatives` likeliest tokens in its place (best first). Element 0 has
// its token alone. Throws Error(kUnsupported) for models that do not read from left to right,
// Error(kLimit) for more tokens than the context holds.
Task<std::vector<engine::Picked>> score_prompt(engine::Engine& engine,
                                               std::shared_ptr<engine::Request> request,
                                               std::vector<int32_t> tokens, int alternatives);

}  // namespace tutti::decode
