// Training data with anchors: behind many tokens of one text stand short chains of rows that shall
// say what comes further on, so that a forward of the text serves all of them. Sources: sheets 05
// and 40; the gradient is that of one chain per text, summed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/loss_rows.h"

namespace tutti::train {

// Rows of the example behind which a chain of `ahead` may stand: from the last of the prompt on,
// and such that the token which the chain's last row predicts is in the text. `most` of them, drawn
// by (seed, number of the example); ascending.
std::vector<int> draw_anchors(const Example& example, int ahead, int most, uint64_t seed,
                              uint64_t number);

// The text and its chains. Row i of a chain at an anchor a predicts token a + i + 1, the one that
// row a + i of the text predicts (i from 1), with weight decay^(i - 1).
LossSequence anchored(const LossOptions& options, const models::Config& config,
                      const Example& example, uint64_t seed, uint64_t number);

// Makes the loss of a step a mean over its predictions.
void divide_by_predictions(std::span<LossSequence> sequences);

// Of each of its predictions: the row of the text that predicts the same token.
std::vector<int> teachers(const LossSequence& sequence);

// One forward of texts with their chains, in two: the chains see the texts' keys and values, which
// stay in a cache of `pages`.
struct AnchoredParts {
  models::Batch texts, chains;
  std::vector<int> anchors;    // rows of `texts`, one per chain
  std::vector<int> taught_by;  // of each row of `chains`: that of `texts` which says the same token
  int pages = 0;
};
AnchoredParts split_anchored(const models::Config& config, std::span<const LossSequence> sequences);

}  // namespace tutti::train
