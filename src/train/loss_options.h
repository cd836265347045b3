// What a training loss is made of. Sources: sheet 00 (LLaDA, Dream, SDAR, BD3), sheet 22 (Dimple),
// sheet 05 (Hidden Transfer), sheet 39 (dParallel), sheet 40 (PPD), sheet 45 (ASSD).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tutti::train {

enum class LossKind : uint8_t {
  kNextToken,  // cross entropy of every token given those before it
  kMasked,     // of masked tokens given the rest of the sequence (LLaDA; Dream when logits are
               // shifted)
  kCertainty,  // certainty-forcing distillation (dParallel, sheet 39): half of one block of the
               // answer masked, what follows it all masked; cross entropy there, and the entropy of
               // what the model already gets right; the complementary half likewise
  kAnySubset,  // of a share of the tokens given the rest and, in an order, each other, by an
               // any-order model's query stream (ASSD, sheet 45): the joint density of the masked
               // tokens
  kPromptTokens,  // prompt tokens behind anchors of a text, on frozen weights (PPD, sheet 40): what
                  // the network itself says that much further on
  kTransfer,  // rows behind anchors of a text, on frozen weights, that enter between layers as maps
              // of the anchor's state there (Hidden Transfer, sheet 05): likewise
  kBlock,     // of masked tokens given their block and the clean blocks before (BD3, SDAR): [x_t |
              // x_0]
};

// The factor of a masked token's cross entropy.
enum class TimeWeight : uint8_t {
  kInverse,  // 1 / p, p being the probability with which it was masked: a bound of the likelihood
  kOne,      // Dimple
  kContext,  // Dream's CART: sum over unmasked tokens j of 1/2 Geo(d) with d = |i - j|, Geo(d) = q
             // (1 - q)^(d - 1)
};

// Over what the sum of cross entropies is divided.
enum class LossMean : uint8_t {
  kSequences,  // a mean over sequences of the sum over the answer's length (LLaDA's fine-tuning,
               // SDAR)
  kTokens,     // the tokens of all answers, masked or not (LLaDA's pre-training)
  kMasked,     // the masked tokens (Dimple)
};

// Whether the loss trains what guesses beside a network that stays as it is.
inline bool guesses(LossKind kind) {
  return kind == LossKind::kPromptTokens || kind == LossKind::kTransfer;
}

// Of kTransfer.
struct TransferOptions {
  bool medusa = false;       // Medusa's blocks on the last state in place of linear maps
  std::vector<int> enter;    // the layer of each offset, or one for all
  bool refined = true;       // false: what the map gives goes straight to the head
  bool see_previous = true;  // rows see those of smaller offsets
  bool bias = true;
  bool shared = false;  // one map for all offsets
};

struct LossOptions {
  LossKind kind = LossKind::kNextToken;
  TimeWeight weight = TimeWeight::kInverse;
  LossMean mean = LossMean::kTokens;
  double context = 0.1;         // q of kContext
  double epsilon = 1e-3;        // p = (1 - epsilon) t + epsilon
  double low = 0, high = 1;     // t is uniform over (low, high): BD3's clipping
  bool time_per_block = false;  // BD3 draws t for every block, SDAR for every sequence
  bool stratified =
      false;  // t of draw i of n lies in the i-th n-th of its range (BD3's antithetic sampling)
  bool never_mask_logit = false;       // SUBS: the mask token has no logit
  int certainty_block = 32;            // kCertainty: tokens of a block; 0: the whole answer (Dream)
  double certainty_rate = 0.5;         // of its tokens that are masked in the first copy
  double certainty_weight = 2;         // beta: of the entropy beside the cross entropy
  double certainty_temperature = 0.5;  // of the entropy's softmax
  bool random_order = false;  // kAnySubset: masked tokens in any order, not from left to right
  bool independent = false;   // kAnySubset: each masked token given the rest alone (the paper's
                              // parallel loss)
  int ahead = 3;              // of losses that guess: rows behind an anchor
  int anchors = 64;           // of a sequence, at most
  double decay = 0.8;         // of the weight from one row to the next
  bool from_teacher = true;   // Kullback-Leibler divergence from the network's own distribution;
                              // false: cross entropy of the text's token
  std::string start;          // kPromptTokens: the text whose tokens' embeddings they start as
  TransferOptions transfer;
  double cut = 0;  // share of sequences cut to a random length (LLaDA's pre-training: 0.01)
};

}  // namespace tutti::train
