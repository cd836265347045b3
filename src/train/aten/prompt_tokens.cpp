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
  embeddings_ = weights.embedding.index_select(0, at::tensor(rows)).clone();
}

std::vector<Parameter> PromptTokens::parameters() const {
  return {{"prompt_embeddings", embeddings_, true}};
}

PromptTokens::States PromptTokens::states(const models::Config& config,
                                          std::span<const LossSequence> sequences,
                                          const at::Tensor& embeddings, bool bf16) const {
  std::vector<Sequence> all;
  std::vector<int> texts, chains, taught_by;
  models::TensorInputs inputs;
  int base = 0;
  for (const LossSequence& s : sequences) {
    const int text = s.sequence.rows() - int(s.predicted.size());
    for (const int row : teachers(s)) taught_by.push_back(int(texts.size()) + row);
    for (int row = 0; row < s.sequence.rows(); ++row) {
      (row < text ? texts : chains).push_back(base + row);
      if (row >= text) inputs.rows.push_back(embeddings[(row - text) % s.sequence.ahead]);
    }
    all.push_back(s.sequence);
    base += s.sequence.rows();
  }
  const models::Batch whole = plan_batch(config, all);
  models::TensorKv kv(config, (base + tensor::kPageSlots - 1) / tensor::kPageSlots,
                      bf16 ? at::kBFloat16 : at::kFloat);
  const Autocast autocast(bf16);
  States out;
  {
    const at::NoGradGuard no_gradients;
    models::Batch batch = part_of(whole, texts);
    batch.head_rows = std::move(taught_by);
    out.teacher = models::tensor_states(config, frozen_, batch, kv).to(at::kFloat);
  }
  models::Batch batch = part_of(whole, chains);
  for (int row = 0; row < batch.rows(); ++row) batch.head_rows.push_back(row);
  out.student = models::tensor_states(config, frozen_, batch, kv, inputs).to(at::kFloat);
  return out;
}

void PromptTokens::save(const std::filesystem::path& folder, const at::Tensor& embeddings,
                        const std::string& base) const {
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
