#include "train/aten/lora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

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

models::TensorWeights rounded_layers(models::TensorWeights weights) {
  for (auto& layer : weights.layers) {
    for (const Part& part : kParts) {
      at::Tensor& w = (layer.*part.linear).weight;
      if (w.defined()) w = w.to(at::kBFloat16);
    }
  }
  return weights;
}

Lora::Lora(const LoraRecipe& recipe, const models::TensorWeights& frozen,
           const models::TensorLayout& layout, uint64_t seed, bool bf16)
    : recipe_(recipe), frozen_(frozen), scale_(recipe.alpha / recipe.rank) {
  for (size_t l = size_t(recipe.first_layer); l < frozen.layers.size(); ++l) {
    for (size_t p = 0; p < std::size(kParts); ++p) {
      if (std::ranges::find(recipe.targets, kParts[p].target) == recipe.targets.end()) continue;
      const at::Tensor& w = (frozen.layers[l].*kParts[p].linear).weight;
      if (!w.defined()) continue;
      const std::string name =
          layout.layer_prefix + std::to_string(l) + "." + layout.*kParts[p].name;
      const double deviation = 1 / std::sqrt(double(w.size(1)));
      adapters_.push_back(
          {l, p, name,
           normal_tensor(seed, name + ".lora_A", {recipe.rank, w.size(1)}, deviation)
               .to(w.device()),
           at::zeros({w.size(0), recipe.rank}, w.options())});
    }
  }
  if (bf16) frozen_ = rounded_layers(std::move(frozen_));
}

std::vector<Parameter> Lora::parameters() const {
  std::vector<Parameter> out;
  for (const Adapter& a : adapters_) {
    out.push_back({a.name + ".lora_A", a.a, true});
    out.push_back({a.name + ".lora_B", a.b, true});
  }
  return out;
}

models::TensorInputs Lora::beside(const std::vector<at::Tensor>& values) const {
  models::TensorInputs inputs;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const auto& layer = frozen_.layers[adapters_[i].layer];
    const at::Tensor& w = (layer.*kParts[adapters_[i].part].linear).weight;
    inputs.low_rank[w.unsafeGetTensorImpl()] = {values[2 * i], values[2 * i + 1], scale_};
  }
  return inputs;
}

models::TensorWeights Lora::merged(const models::TensorWeights& weights,
                                   const std::vector<at::Tensor>& values) const {
  models::TensorWeights w = weights;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    at::Tensor& weight = (w.layers[adapters_[i].layer].*kParts[adapters_[i].part].linear).weight;
    weight = weight + values[2 * i + 1].matmul(values[2 * i]) * scale_;
  }
  return w;
}

NamedTensors Lora::peft_tensors(const std::vector<at::Tensor>& values) const {
  NamedTensors out;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const std::string at = "base_model.model." + adapters_[i].name;
    out[at + ".lora_A.weight"] = values[2 * i];
    out[at + ".lora_B.weight"] = values[2 * i + 1];
  }
  return out;
}

nlohmann::ordered_json Lora::peft_config(const std::string& base) const {
  std::set<std::string> modules;  // the last part of their names, as peft looks for them
  std::set<size_t> layers;
  for (const Adapter& a : adapters_) {
    modules.insert(a.name.substr(a.name.rfind('.') + 1));
    layers.insert(a.layer);
  }
  nlohmann::ordered_json j{
      {"peft_type", "LORA"}, {"task_type", nullptr},        {"base_model_name_or_path", base},
      {"r", recipe_.rank},   {"lora_alpha", recipe_.alpha}, {"lora_dropout", 0.0},
      {"bias", "none"},      {"fan_in_fan_out", false},     {"use_rslora", false},
      {"use_dora", false},   {"inference_mode", true},      {"target_modules", modules}};
  if (recipe_.first_layer > 0) j["layers_to_transform"] = layers;
  return j;
}

}  // namespace tutti::train
