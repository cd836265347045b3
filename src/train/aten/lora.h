// Low-rank adapters (Hu et al., 2021): a frozen matrix W is used as W + alpha / rank * B A, A
// [rank, in] and B [out, rank] being trained. The sum is made once per forward, so that the network
// needs not know of it.
#pragma once

#include <vector>

#include "train/aten/parameters.h"

namespace tutti::train {

class Lora {
 public:
  // A starts normal with deviation in^-1/2, B at 0: the first forward is the frozen network's.
  Lora(const LoraRecipe& recipe, const models::TensorWeights& frozen,
       const models::TensorLayout& layout, uint64_t seed);

  // The adapters, by the name of their matrix and ".lora_A" or ".lora_B".
  std::vector<Parameter> parameters() const;
  // The network's weights with adapters of these values in them, in the order of parameters().
  // Gradients reach them.
  models::TensorWeights merged(const std::vector<at::Tensor>& values) const;

 private:
  struct Adapter {
    size_t layer;
    size_t part;  // of kParts
    std::string name;
    at::Tensor a, b;
  };
  models::TensorWeights frozen_;
  std::vector<Adapter> adapters_;
  double scale_;
};

}  // namespace tutti::train
