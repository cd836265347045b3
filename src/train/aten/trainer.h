// One network in training: step by step, from a recipe, with a state that resumes to the same bits.
#pragma once

#include <memory>
#include <optional>

#include "train/aten/guesser.h"
#include "train/aten/lora.h"
#include "train/aten/optimiser.h"
#include "train/aten/state.h"
#include "train/loss_rows.h"
#include "train/training.h"

namespace tutti::train {

class Trainer {
 public:
  // Loads or makes the weights. Threads are set by the caller. Throws Error.
  explicit Trainer(const Recipe& recipe);
  Trainer(const Trainer&) = delete;  // parts refer to each other

  const Recipe& recipe() const { return recipe_; }
  const models::Config& config() const { return shaped_.config; }
  at::Device device() const { return device_; }
  int64_t step() const { return step_; }
  int64_t parameters() const;          // of the network
  int64_t trained_parameters() const;  // that move

  // Forward, backward and one move of the weights. `noise`, when given, receives the step's
  // sequences.
  StepReport train_step(std::vector<LossSequence>* noise = nullptr);
  // Held-out problems by the saved weights; of a guesser, held-out texts.
  EvaluationReport evaluate();

  RunState state() const;
  // Throws Error(kBadFile) when the state is not of this recipe's network.
  void restore(const RunState& state);
  // A Hugging Face folder that the loader reads back bit for bit: the averaged weights where the
  // recipe asks for an average, adapters merged. With a guesser nothing: the network stays.
  void save_model(const std::filesystem::path& folder) const;
  // With adapters or a guesser: these alone. Without: nothing.
  void save_adapter(const std::filesystem::path& folder) const;

 private:
  void begin_with_target();
  void move_weights();  // to the device
  // The next step's examples; moves the cursor.
  struct Taken {
    std::vector<Example> examples;
    std::vector<size_t> forwards;  // how many of them each forward takes
  };
  Taken take_examples();
  // Adds its loss, and what else there is to say about its predictions, to `report`.
  void backward(std::span<const LossSequence> sequences, StepReport& report);
  at::Tensor loss_of(std::span<const LossSequence> sequences, at::Tensor states,
                     StepReport& report) const;
  // The normed states of the rows that predict.
  at::Tensor states_of(std::span<const LossSequence> sequences) const;
  at::Tensor guess_loss(std::span<const LossSequence> sequences) const;  // of a guesser
  GuessReport judge() const;                                             // on held-out texts
  // The network's weights when the trained tensors have these values, in the order of trained_.
  models::TensorWeights weights_of(const std::vector<at::Tensor>& values) const;
  const std::vector<at::Tensor>& saved_values() const;
  models::TensorWeights saved_weights() const;  // of the folder and of evaluations
  void average();

  Recipe recipe_;
  at::Device device_;
  Vocabulary vocabulary_;
  std::unique_ptr<ExampleSource> examples_;
  ModelShape shape_;
  ShapedConfig shaped_;
  at::Tensor target_embeddings_;  // of draft models: what weights_.embedding, a map, is applied to
  models::TensorWeights weights_;
  std::optional<Lora> lora_;
  std::unique_ptr<const Guesser> guesser_;  // of losses that leave the network as it is
  GuessReport judged_;                      // its last evaluation
  std::vector<Parameter> trained_;
  std::vector<at::Tensor> values_;    // theirs
  std::vector<at::Tensor> averages_;  // of values_, when the recipe asks for them
  std::optional<Optimiser> optimiser_;
  int64_t step_ = 0;
  uint64_t next_example_ = 0;
};

}  // namespace tutti::train
