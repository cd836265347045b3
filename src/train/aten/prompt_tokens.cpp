#include "train/aten/prompt_tokens.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "train/anchored.h"
#include "train/aten/autocast.h"
#include "train/aten/lora.h"
#include "train/aten/state.h"

namespace tutti::train {

PromptTokens::PromptTokens(const LossOptions& options, const models::TensorWeights& weights,
                           const Vocabulary& vocabulary, bool bf16)
    : options_(options), frozen_(bf16 ? rounded_layers(weights) : weights) {
  const std::vector<int32_t> ids = vocabulary.tokenizer.encode(options.start);
  if (ids.empty())
    throw Error(ErrorKind::kUsage, "loss.start: is no token; give the text that they start as");
  std::vector<int64_t> rows;
  for (int i = 0; i < options.ahead; ++i) rows.push_back(ids[size_t(i) % ids.size()]);
  embeddings_ = weights.embedding.index_select(0, at::tensor(rows).to(weights.embedding.device()));
}

std::vector<Parameter> PromptTokens::parameters() const {
  return {{"prompt_embeddings", embeddings_, true}};
}

Guesser::States PromptTokens::states(const models::Config& config,
                                     std::span<const LossSequence> sequences,
                                     const std::vector<at::Tensor>& values, bool bf16) const {
  const at::Tensor& embeddings = values.front();
  AnchoredParts parts = split_anchored(config, sequences);
  models::TensorInputs inputs;  // one piece of the graph, not one for each row
  inputs.rows = embeddings.repeat({parts.chains.rows() / options_.ahead, 1}).unbind();
  for (int row = 0; row < parts.chains.rows(); ++row) parts.chains.head_rows.push_back(row);
  parts.texts.head_rows = std::move(parts.taught_by);
  const at::Device device = embeddings.device();
  models::TensorKv kv(config, parts.pages, bf16 ? at::kBFloat16 : at::kFloat, device);
  const Autocast autocast(bf16, device);
  States out;
  {
    const at::NoGradGuard no_gradients;
    out.teacher = models::tensor_states(config, frozen_, parts.texts, kv).to(at::kFloat);
  }
  out.student = models::tensor_states(config, frozen_, parts.chains, kv, inputs).to(at::kFloat);
  return out;
}

void PromptTokens::save(const std::filesystem::path& folder, const std::vector<at::Tensor>& values,
                        const std::string& base, const GuessReport&) const {
  const at::Tensor& embeddings = values.front();
  std::filesystem::create_directories(folder);
  write_tensors(folder / "adapter_model.safetensors", {{"prompt_embeddings", embeddings}},
                {{"format", "pt"}});
  const nlohmann::ordered_json config{{"peft_type", "PROMPT_TUNING"},
                                      {"task_type", "CAUSAL_LM"},
                                      {"base_model_name_or_path", base},
                                      {"num_virtual_tokens", options_.ahead},
                                      {"num_special_tokens", options_.ahead},
                                      {"virtual_tokens_per_special_token", 1},
                                      {"token_dim", embeddings.size(1)},
                                      {"prompt_tuning_init", "TEXT"},
                                      {"prompt_tuning_init_text", options_.start},
                                      {"tokenizer_name_or_path", base},
                                      {"vt_attention_type", "decoder"},
                                      {"aggregation_type", "mean"},
                                      {"use_custom_lm_head", false},
                                      {"use_prefix_tuning", false},
                                      {"inference_mode", true}};
  write_file_atomically(folder / "adapter_config.json", config.dump(1) + "\n");
}

}  // namespace tutti::train
