#include "train/aten/optimiser.h"

#include <ATen/ATen.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <limits>

#include "base/error.h"

namespace tutti::train {
namespace {

using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::AdamWParamState;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using torch::optim::SGDParamState;

at::Tensor taken(const NamedTensors& state, const std::string& name, const at::Tensor& like) {
  const auto found = state.find(name);
  if (found == state.end() || found->second.sizes() != like.sizes()) {
    throw Error(
        ErrorKind::kBadFile,
        "checkpoint: has no tensor " + name +
            " of the right shape; it belongs to another recipe, start anew without --resume");
  }
  return found->second.to(like.options(), /*non_blocking=*/false, /*copy=*/true);
}

template <class Options>
std::vector<torch::optim::OptimizerParamGroup> groups_of(const std::vector<Parameter>& parameters,
                                                         Options options) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const bool decays : {true, false}) {
    std::vector<at::Tensor> tensors;
    for (const Parameter& p : parameters) {
      if (p.decays == decays) tensors.push_back(p.tensor);
    }
    if (tensors.empty()) continue;
    if (!decays) options.weight_decay(0);
    groups.emplace_back(std::move(tensors), std::make_unique<Options>(options));
  }
  return groups;
}

}  // namespace

struct Optimiser::Inside {
  OptimiserRecipe recipe;
  std::vector<Parameter> parameters;
  std::vector<at::Tensor> tensors;
  std::unique_ptr<torch::optim::Optimizer> optimizer;

  bool adam() const { return recipe.kind == "adamw"; }
};

Optimiser::Optimiser(const OptimiserRecipe& recipe, const std::vector<Parameter>& parameters)
    : inside_(std::make_unique<Inside>()) {
  inside_->recipe = recipe;
  inside_->parameters = parameters;
  for (Parameter& p : inside_->parameters) {
    p.tensor.set_requires_grad(true);
    inside_->tensors.push_back(p.tensor);
  }
  if (inside_->adam()) {
    AdamWOptions options(recipe.learning_rate);
    options.betas({recipe.beta1, recipe.beta2})
        .eps(recipe.epsilon)
        .weight_decay(recipe.weight_decay);
    inside_->optimizer = std::make_unique<AdamW>(groups_of(parameters, options), options);
  } else {
    SGDOptions options(recipe.learning_rate);
    options.momentum(recipe.momentum).weight_decay(recipe.weight_decay);
    inside_->optimizer = std::make_unique<SGD>(groups_of(parameters, options), options);
  }
}

Optimiser::~Optimiser() = default;

double Optimiser::step(double learning_rate) {
  const double clip = inside_->recipe.clip;
  const double norm = torch::nn::utils::clip_grad_norm_(
      inside_->tensors, clip > 0 ? clip : std::numeric_limits<double>::infinity());
  for (auto& group : inside_->optimizer->param_groups()) group.options().set_lr(learning_rate);
  inside_->optimizer->step();
  inside_->optimizer->zero_grad();
  return norm;
}

NamedTensors Optimiser::state() const {
  NamedTensors out;
  const auto& states = inside_->optimizer->state();
  for (const Parameter& p : inside_->parameters) {
    const auto found = states.find(p.tensor.unsafeGetTensorImpl());
    if (found == states.end()) continue;
    if (inside_->adam()) {
      const auto& s = static_cast<const AdamWParamState&>(*found->second);
      out[p.name + ".steps"] = at::full({1}, double(s.step()));  // exact in fp32 up to 16 million
      out[p.name + ".exp_avg"] = s.exp_avg();
      out[p.name + ".exp_avg_sq"] = s.exp_avg_sq();
    } else {
      const auto& s = static_cast<const SGDParamState&>(*found->second);
      if (s.momentum_buffer().defined()) out[p.name + ".momentum"] = s.momentum_buffer();
    }
  }
  return out;
}

void Optimiser::restore(const NamedTensors& state) {
  auto& states = inside_->optimizer->state();
  for (const Parameter& p : inside_->parameters) {
    void* key = p.tensor.unsafeGetTensorImpl();
    if (inside_->adam() && state.contains(p.name + ".steps")) {
      auto s = std::make_unique<AdamWParamState>();
      s->step(int64_t(state.at(p.name + ".steps").item<double>()));
      s->exp_avg(taken(state, p.name + ".exp_avg", p.tensor));
      s->exp_avg_sq(taken(state, p.name + ".exp_avg_sq", p.tensor));
      states[key] = std::move(s);
    } else if (!inside_->adam() && state.contains(p.name + ".momentum")) {
      auto s = std::make_unique<SGDParamState>();
      s->momentum_buffer(taken(state, p.name + ".momentum", p.tensor));
      states[key] = std::move(s);
    }
  }
}

}  // namespace tutti::train
