// Prompt tokens (PPD, sheet 40) in training: m vectors that enter a frozen network behind a token,
// each to say what comes one further on.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "train/aten/guesser.h"
#include "train/vocabulary.h"

namespace tutti::train {

class PromptTokens final : public Guesser {
 public:
  // They start as the embeddings of the first tokens of LossOptions::start, which is repeated if it
  // is short. `bf16`: the frozen matrices are rounded once. Throws Error(kUsage): the text is
  // empty.
  PromptTokens(const LossOptions& options, const models::TensorWeights& weights,
               const Vocabulary& vocabulary, bool bf16);

  // [m, hidden], one parameter.
  std::vector<Parameter> parameters() const override;

  States states(const models::Config& config, std::span<const LossSequence> sequences,
                const std::vector<at::Tensor>& values, bool bf16) const override;

  // As the peft library stores prompt tuning: adapter_model.safetensors and adapter_config.json.
  void save(const std::filesystem::path& folder, const std::vector<at::Tensor>& values,
            const std::string& base, const GuessReport& report) const override;

 private:
  const LossOptions options_;
  models::TensorWeights frozen_;
  at::Tensor embeddings_;
};

}  // namespace tutti::train
