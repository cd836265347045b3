// A text as one vector: the mean of the model's last states over its tokens.
#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"
#include "text/tokenizer.h"

namespace tutti::decode {

// How a text that is only read becomes tokens: with the marks that the model was trained to see
// around it.
text::EncodeOptions reading_options(const text::Tokenizer& tokenizer, const models::Config& config);

// For each input (tokens, not empty): the mean over its tokens of the final, normalised states
// (transformers' last_hidden_state), divided by its Euclidean length; [hidden]. The inputs run side
// by side, some 32 at a time, and no more than 512 tokens of each are under way. Encoders do it
// their own way (encoder_states.h). Throws Error(kUnsupported) for models that fill in masks or
// predict in any order, Error(kLimit) for an input that does not fit the context, and what a
// cancelled request throws.
Task<std::vector<std::vector<float>>> pooled_states(engine::Engine& engine,
                                                    std::shared_ptr<engine::Request> request,
                                                    std::vector<std::vector<int32_t>> inputs);

}  // namespace tutti::decode
