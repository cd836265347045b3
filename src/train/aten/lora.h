// Low-rank adapters (Hu et al., 2021): a frozen matrix W is used as W + alpha / rank * B A, A
// [rank, in] and B [out, rank] being trained. In training the two products stand beside the frozen
// one, so that no gradient of W is ever computed.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "train/aten/optimiser.h"

namespace tutti::train {

// The matrices of the layers in bfloat16, where each product in bfloat16 would round them first:
// done once. The other weights as they are.
models::TensorWeights rounded_layers(models::TensorWeights weights);

class Lora {
 public:
  // A starts normal with deviation in^-1/2, B at 0: the first forward is the frozen network's.
  // `bf16`: the frozen matrices of the layers are rounded once, as each product would round them.
  Lora(const LoraRecipe& recipe, const models::TensorWeights& frozen,
       const models::TensorLayout& layout, uint64_t seed, bool bf16);

  // The adapters, by the name of their matrix and ".lora_A" or ".lora_B".
  std::vector<Parameter> parameters() const;

  // What a forward in training takes: the frozen weights, and beside them adapters of these values,
  // in the order of parameters().
  const models::TensorWeights& frozen() const { return frozen_; }
  models::TensorInputs beside(const std::vector<at::Tensor>& values) const;

  // `weights`, those that it was made of, with adapters of these values added to their matrices.
  models::TensorWeights merged(const models::TensorWeights& weights,
                               const std::vector<at::Tensor>& values) const;

  // As the peft library stores adapters: adapter_model.safetensors and adapter_config.json.
  // `base` names the model that they belong to.
  NamedTensors peft_tensors(const std::vector<at::Tensor>& values) const;
  nlohmann::ordered_json peft_config(const std::string& base) const;

 private:
  struct Adapter {
    size_t layer;
    size_t part;  // of kParts
    std::string name;
    at::Tensor a, b;
  };
  const LoraRecipe recipe_;
  models::TensorWeights frozen_;
  std::vector<Adapter> adapters_;
  double scale_;
};

}  // namespace tutti::train
