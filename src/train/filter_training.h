// Training of Learn2PD's filter (sheet 32): which positions of a block are already what they will
// be, from the probabilities of all of them. What trains it uses ATen and lies in aten/; this
// header names no tensor.
#pragma once

#include <cstdint>
#include <vector>

namespace tutti::train {

struct FilterTrainingRequest {
  int block = 0;
  std::vector<float> probabilities;  // [records][block]
  std::vector<float> right;          // likewise, 0 or 1
  int epochs = 4000;                 // of the whole training set each
  double learning_rate = 3e-3;       // AdamW
  uint64_t seed = 1;                 // of weights and of the split 80 : 10 : 10
  // The baseline: every position by itself, one weight and one bias. A learned threshold, no more.
  bool apart = false;
  bool relu = true;
  int threads = 1;
};

struct FilterEpoch {
  int epoch = 0;
  double loss = 0, validation_loss = 0;  // binary cross entropy, nats
  double false_positives =
      0;  // share of the accepted, at an output of 0.9, that are wrong; validation set
  double false_negatives = 0;  // share of the refused that are right
};

struct FilterTrainingResult {
  // Of the epoch with the least validation loss.
  std::vector<float> w1, b1, w2,
      b2;  // of z = w2 act(w1 c + b1) + b2; `apart`: w1 diagonal, w2 = 1, no activation
  std::vector<FilterEpoch> epochs;  // some hundred of them
  FilterEpoch test;                 // of the last tenth
};

// As TrainFunction (training.h). Throws Error(kUsage) when there are too few records.
using TrainFilterFunction = void (*)(const FilterTrainingRequest& request,
                                     FilterTrainingResult& result);
inline constexpr const char* kTrainFilterFunction = "tutti_train_filter";

}  // namespace tutti::train
