// Prompt tokens (PPD, sheet 40) in training: m vectors that enter a frozen network behind a token,
// each to say what comes one further on.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "train/aten/optimiser.h"
#include "train/loss_rows.h"
#include "train/vocabulary.h"

namespace tutti::train {

class PromptTokens {
 public:
  // They start as the embeddings of the first tokens of LossOptions::start, which is repeated if it
  // is short. `bf16`: the frozen matrices are rounded once. Throws Error(kUsage): the text is
  // empty.
  PromptTokens(const LossOptions& options, const models::TensorWeights& weights,
               const Vocabulary& vocabulary, bool bf16);

  // [m, hidden], one parameter.
  std::vector<Parameter> parameters() const;

  // The normed states of the rows that predict, and of the text's rows that predict the same
  // tokens. The texts go first, without a graph: they see no prompt token, so their keys and values
  // are constants. Products in bfloat16 when `bf16`.
  struct States {
    at::Tensor student, teacher;  // [predictions, hidden] each
  };
  States states(const models::Config& config, std::span<const LossSequence> sequences,
                const at::Tensor& embeddings, bool bf16) const;

  // As the peft library stores prompt tuning: adapter_model.safetensors and adapter_config.json.
  // `base` names the model that they belong to.
  void save(const std::filesystem::path& folder, const at::Tensor& embeddings,
            const std::string& base) const;

 private:
  const LossOptions options_;
  models::TensorWeights frozen_;
  at::Tensor embeddings_;
};

}  // namespace tutti::train
