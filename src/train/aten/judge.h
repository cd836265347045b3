// Which guesser a recipe trains, and how good its guesses are.
#pragma once

#include <memory>

#include "train/aten/guesser.h"
#include "train/examples.h"
#include "train/recipe.h"
#include "train/vocabulary.h"

namespace tutti::train {

// Null when the recipe's loss moves the network itself. Throws Error(kUsage).
std::unique_ptr<const Guesser> make_guesser(const Recipe& recipe, const models::Config& config,
                                            const models::TensorWeights& weights,
                                            const Vocabulary& vocabulary);

// Of texts that were not trained, behind as many anchors as in training: guesses of the tokens that
// came, by parameters of these values. `head` is [vocab, hidden].
GuessReport judge_guesser(const Guesser& guesser, const models::Config& config,
                          const Recipe& recipe, std::span<const Example> texts,
                          const std::vector<at::Tensor>& values, const at::Tensor& head);

}  // namespace tutti::train
