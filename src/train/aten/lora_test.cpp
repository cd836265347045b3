// Adapters: they move alone, and what is frozen costs no backward pass. Against PyTorch:
// tests/conformance/test_finetuning.py.
#include "train/aten/lora.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>

#include <set>

#include "base/error.h"
#include "formats/temporary_folder.h"
#include "train/aten/tiny_recipe.h"
#include "train/aten/trainer.h"

namespace tutti::train {
namespace {

using formats::TemporaryFolder;
using nlohmann::json;

int64_t graph_nodes(const at::Tensor& of) {
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open{of.grad_fn().get()};
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return int64_t(seen.size());
}

// What a backward pass goes through does not depend on the layers below the lowest adapter, nor on
// whether the frozen matrices are large.
TEST(LowRankAdapters, NothingBelowTheLowestIsDifferentiated) {
  std::vector<int64_t> nodes;
  for (const int layers : {2, 4, 6}) {
    json recipe = tiny();
    recipe["model"]["layers"] = layers;
    const Recipe r = parsed(recipe);
    const ShapedConfig shaped =
        shaped_config({"llada", layers, 64, 2, 2, 32, 96, 48, 15, 1e4, 1e-5, false, 0, 14, 13});
    const models::TensorWeights weights = initial_weights(shaped, r.model, 1);
    LoraRecipe adapters;
    adapters.rank = 2;
    adapters.alpha = 4;
    adapters.first_layer = layers - 1;
    adapters.targets = {"q", "down"};
    const Lora lora(adapters, weights, shaped.layout, 1, false);
    std::vector<at::Tensor> values;
    for (const Parameter& p : lora.parameters())
      values.push_back(at::Tensor(p.tensor).set_requires_grad(true));
    EXPECT_EQ(values.size(), 4u);
    models::Batch batch =
        plan_batch(shaped.config, std::vector{plain_sequence(shaped.config, {1, 2, 3})});
    batch.head_rows = {0, 1, 2};
    models::TensorKv kv(shaped.config, 0);
    const at::Tensor states =
        models::tensor_states(shaped.config, lora.frozen(), batch, kv, lora.beside(values));
    nodes.push_back(graph_nodes(states));
    states.sum().backward();
    for (const at::Tensor& value : values) EXPECT_TRUE(value.grad().defined());
    for (const Parameter& p : parameters_of(weights, shaped.layout))
      EXPECT_FALSE(p.tensor.requires_grad()) << p.name;
  }
  EXPECT_EQ(nodes[0], nodes[1]);
  EXPECT_EQ(nodes[0], nodes[2]);
}

TEST(LowRankAdapters, ALayerThatIsNotThereIsNamed) {
  json recipe = tiny();
  recipe["lora"] = {{"rank", 2}, {"first_layer", 2}};
  EXPECT_THROW(Trainer{parsed(recipe)}, Error);
}

// Rounding the frozen matrices once gives the bits of rounding them in each product.
TEST(LowRankAdapters, RoundedOnceIsRoundedEachTime) {
  json recipe = tiny();
  recipe["precision"] = "bf16";
  recipe["lora"] = {{"rank", 3}};
  const Recipe r = parsed(recipe);
  const ShapedConfig shaped =
      shaped_config({"llada", 2, 64, 2, 2, 32, 96, 48, 15, 1e4, 1e-5, false, 0, 14, 13});
  const models::TensorWeights weights = initial_weights(shaped, r.model, 1);
  const Lora once(r.lora, weights, shaped.layout, 1, true),
      each(r.lora, weights, shaped.layout, 1, false);
  EXPECT_EQ(once.frozen().layers[1].gate.weight.scalar_type(), at::kBFloat16);
  models::Batch batch =
      plan_batch(shaped.config, std::vector{plain_sequence(shaped.config, {1, 2, 3, 4, 5})});
  batch.head_rows = {0, 2, 4};
  models::TensorKv kv(shaped.config, 0);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  std::vector<at::Tensor> states;
  for (const Lora* lora : {&once, &each}) {
    std::vector<at::Tensor> values;
    for (const Parameter& p : lora->parameters()) values.push_back(p.tensor + 0.1);
    states.push_back(
        models::tensor_states(shaped.config, lora->frozen(), batch, kv, lora->beside(values)));
  }
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TRUE(same_bits(states[0], states[1]));
}

TEST(LowRankAdapters, StartAtTheFrozenNetworkAndMoveAlone) {
  const TemporaryFolder folder;
  Trainer first(parsed(tiny()));
  for (int i = 0; i < 2; ++i) first.train_step();
  first.save_model(folder.path());
  const auto frozen =
      parameters_of(models::tensor_weights(models::Checkpoint::open(folder.path())),
                    shaped_config(shape_of(models::Checkpoint::open(folder.path()), "")).layout);

  json recipe = tiny();
  recipe["model"] = {{"from", folder.path().string()}};
  json with_adapters = recipe;
  with_adapters["lora"] = {{"rank", 3}, {"alpha", 6}, {"targets", {"q", "down"}}};
  Trainer whole(parsed(recipe)), adapted(parsed(with_adapters));
  EXPECT_EQ(whole.train_step().loss, adapted.train_step().loss);  // B is 0
  const int64_t q = 3 * (64 + 64), down = 3 * (96 + 64);
  EXPECT_EQ(adapted.trained_parameters(), 2 * (q + down));
  EXPECT_EQ(adapted.parameters(), whole.parameters());
  for (int i = 0; i < 5; ++i) adapted.train_step();

  const TemporaryFolder merged;
  adapted.save_model(merged.path());
  const models::Checkpoint checkpoint = models::Checkpoint::open(merged.path());
  const auto state = adapted.state().tensors;
  const auto saved = parameters_of(models::tensor_weights(checkpoint),
                                   shaped_config(shape_of(checkpoint, "")).layout);
  ASSERT_EQ(saved.size(), frozen.size());
  int moved = 0;
  for (size_t i = 0; i < saved.size(); ++i) {
    const std::string stem = saved[i].name.substr(0, saved[i].name.rfind(".weight"));
    if (!state.contains("weight." + stem + ".lora_A")) {
      EXPECT_TRUE(same_bits(saved[i].tensor, frozen[i].tensor)) << saved[i].name;
      continue;
    }
    const at::Tensor a = state.at("weight." + stem + ".lora_A").detach().to(at::kDouble),
                     b = state.at("weight." + stem + ".lora_B").detach().to(at::kDouble);
    const at::Tensor expected = frozen[i].tensor + b.matmul(a) * 2.0;
    EXPECT_LT((saved[i].tensor - expected).abs().max().item<double>(), 1e-6) << saved[i].name;
    EXPECT_FALSE(same_bits(saved[i].tensor, frozen[i].tensor));
    ++moved;
  }
  EXPECT_EQ(moved, 4);
}

}  // namespace
}  // namespace tutti::train
