// What an encoder makes of texts: the states of its tokens, one vector of each text, and how well
// two texts belong together.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/engine.h"

namespace tutti::decode {

// A text, or two of them, with the marks that the model wants around them.
struct EncoderInput {
  std::vector<int32_t> tokens;
  int second = -1;  // where the tokens of the second text begin (kind 1); -1: there is none
};

// The final state of each token; [tokens][hidden] (transformers' last_hidden_state). Each text goes
// in one tick, and shares nothing with the others but ticks. Throws Error(kUnsupported) for models
// that are no encoders, Error(kUsage) for an empty text, Error(kLimit) for one that does not fit
// the context, and what a cancelled request throws.
Task<std::vector<std::vector<float>>> encoder_states(engine::Engine& engine,
                                                     std::shared_ptr<engine::Request> request,
                                                     const EncoderInput& input);

// For each input: its states pooled as the model says (Config::pooling), divided by the Euclidean
// length; [hidden]. Texts run side by side as far as their tokens are no more than some 512.
Task<std::vector<std::vector<float>>> encoder_vectors(engine::Engine& engine,
                                                      std::shared_ptr<engine::Request> request,
                                                      std::vector<EncoderInput> inputs);

// For each pair: sigmoid of the logit of the model's score head, in (0, 1). Throws
// Error(kUnsupported) when it has no such head, or one of several labels.
Task<std::vector<float>> pair_scores(engine::Engine& engine,
                                     std::shared_ptr<engine::Request> request,
                                     std::vector<EncoderInput> pairs);

// sum / |sum|; zeros stay.
std::vector<float> unit_vector(const std::vector<double>& sum);

}  // namespace tutti::decode
