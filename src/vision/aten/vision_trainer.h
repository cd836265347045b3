// A small Dimple in training: tower, projector and language model together.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "models/aten/tensor_ops.h"
#include "train/aten/optimiser.h"
#include "train/loss_rows.h"
#include "train/vocabulary.h"
#include "vision/aten/tower.h"
#include "vision/shapes.h"
#include "vision/vision_training.h"

namespace tutti::vision {

// Sequences of one forward with their pictures.
struct VisionBatch {
  std::vector<train::LossSequence> sequences;
  std::vector<std::vector<int32_t>> tokens;  // before any were masked
  std::vector<Patches> images;
  std::vector<size_t> pictures;  // of each sequence: which of the images
};

class VisionTrainer {
 public:
  explicit VisionTrainer(VisionRecipe recipe);
  VisionTrainer(const VisionTrainer&) = delete;  // parts refer to each other

  const VisionRecipe& recipe() const { return recipe_; }
  int64_t parameters() const;

  // Chooses what is trained from now on, how, and from which weights: those of a phase that was
  // ended, or of none. The phase is the recipe's.
  void begin(const TrainingPhase& phase);
  // Examples number step * sequences and following of the phase's stream.
  VisionBatch batch(int64_t step) const;
  // Mean cross entropy of the predicted tokens; gradients reach what is trained.
  at::Tensor loss(const VisionBatch& batch) const;
  // Forward, backward, one move.
  VisionStep train_step();
  // A Dimple folder that sees as the phase does.
  void save(const std::filesystem::path& folder) const;

 private:
  // What a phase begins from: weights, and the examples that they have seen.
  struct Beginning {
    std::vector<at::Tensor> weights;  // in the order of all()
    uint64_t drawn = 0;
  };

  std::vector<train::Parameter> all() const;
  void keep_beginning(const std::string& name);
  train::Example example(const ShapeProblem& problem, int cells, uint64_t number) const;

  VisionRecipe recipe_;
  train::Vocabulary vocabulary_;
  int32_t start_, end_;                // <|vision_start|>, <|vision_end|>
  train::ShapedConfig causal_, full_;  // the language model, either way of seeing
  models::TensorWeights text_;
  TowerWeights tower_;
  const TrainingPhase* phase_ = nullptr;
  std::unique_ptr<train::Optimiser> optimiser_;
  int64_t step_ = 0;                             // of the phase
  uint64_t drawn_ = 0;                           // examples of the phases before
  std::map<std::string, Beginning> beginnings_;  // of phases that another than the next one names
};

}  // namespace tutti::vision
