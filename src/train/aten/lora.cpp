#include "train/aten/lora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace tutti::train {
namespace {

using Layer = models::LayerWeights<at::Tensor, at::Tensor>;
using TensorLinear = models::Linear<at::Tensor, at::Tensor>;

struct Part {
  const char* target;  // as the recipe names it
  TensorLinear Layer::* linear;
  std::string models::TensorLayout::* name;
};
const Part kParts[] = {
    {"q", &Layer::q, &models::TensorLayout::q},
    {"k", &Layer::k, &models::TensorLayout::k},
    {"v", &Layer::v, &models::TensorLayout::v},
    {"o", &Layer::o, &models::TensorLayout::o},
    {"gate", &Layer::gate, &models::TensorLayout::gate},
    {"up", &Layer::up, &models::TensorLayout::up},
    {"down", &Layer::down, &models::TensorLayout::down},
};

}  // namespace

Lora::Lora(const LoraRecipe& recipe, const models::TensorWeights& frozen,
           const models::TensorLayout& layout, uint64_t seed)
    : frozen_(frozen), scale_(recipe.alpha / recipe.rank) {
  for (size_t l = 0; l < frozen.layers.size(); ++l) {
    for (size_t p = 0; p < std::size(kParts); ++p) {
      if (std::ranges::find(recipe.targets, kParts[p].target) == recipe.targets.end()) continue;
      const at::Tensor& w = (frozen.layers[l].*kParts[p].linear).weight;
      if (!w.defined()) continue;
      const std::string name =
          layout.layer_prefix + std::to_string(l) + "." + layout.*kParts[p].name;
      const double deviation = 1 / std::sqrt(double(w.size(1)));
      adapters_.push_back(
          {l, p, name, normal_tensor(seed, name + ".lora_A", {recipe.rank, w.size(1)}, deviation),
           at::zeros({w.size(0), recipe.rank}, at::kFloat)});
    }
  }
}

std::vector<Parameter> Lora::parameters() const {
  std::vector<Parameter> out;
  for (const Adapter& a : adapters_) {
    out.push_back({a.name + ".lora_A", a.a, true});
    out.push_back({a.name + ".lora_B", a.b, true});
  }
  return out;
}

models::TensorWeights Lora::merged(const std::vector<at::Tensor>& values) const {
  models::TensorWeights w = frozen_;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const at::Tensor &a = values[2 * i], &b = values[2 * i + 1];
    at::Tensor& weight = (w.layers[adapters_[i].layer].*kParts[adapters_[i].part].linear).weight;
    weight = weight + b.matmul(a) * scale_;
  }
  return w;
}

}  // namespace tutti::train
