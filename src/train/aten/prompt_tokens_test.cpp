// Prompt tokens in training: the distance is the dense one, the two passes give the gradient of
// one, the network does not move, and a resumed run is the unbroken one. Against PyTorch:
// tests/conformance/test_prompt_tokens.py.
#include "train/aten/prompt_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/safetensors.h"
#include "formats/temporary_folder.h"
#include "train/anchored.h"
#include "train/aten/distil_loss.h"
#include "train/aten/tiny_recipe.h"
#include "train/aten/trainer.h"

namespace tutti::train {
namespace {

using nlohmann::json;

double error(const at::Tensor& got, const at::Tensor& expected) {
  return ((got.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST(DistilLoss, IsTheDenseOneWhateverTheChunk) {
  constexpr int64_t kRows = 21, kHidden = 16, kVocabulary = 43;
  const at::Tensor teacher = normal_tensor(7, "teacher", {kRows, kHidden}, 1),
                   head = normal_tensor(7, "head", {kVocabulary, kHidden}, 0.6);
  std::vector<float> weights;
  for (int i = 0; i < kRows; ++i) weights.push_back(i % 4 == 0 ? 0.0f : 0.1f * float(i));
  const at::Tensor states = normal_tensor(7, "states", {kRows, kHidden}, 1);
  const at::Tensor dense = states.to(at::kDouble).set_requires_grad(true);
  const at::Tensor log_q = teacher.to(at::kDouble).matmul(head.to(at::kDouble).t()).log_softmax(1),
                   log_p = dense.matmul(head.to(at::kDouble).t()).log_softmax(1);
  const at::Tensor expected =
      ((log_q.exp() * (log_q - log_p)).sum(1) * at::tensor(weights).to(at::kDouble)).sum();
  expected.backward();
  for (const int64_t chunk : {0, 1, 5, 20, 21}) {
    const at::Tensor leaf = states.clone().set_requires_grad(true);
    const at::Tensor got = distil_loss(leaf, teacher, head, weights, {chunk});
    (got * 2).backward();
    EXPECT_LE(error(got.detach(), expected.detach()), 1e-5);
    EXPECT_LE(error(leaf.grad(), dense.grad() * 2), 2e-5);
  }
}

json prompt_recipe() {
  json recipe = tiny("llama", "prompt-tokens");
  recipe["loss"]["anchors"] = 6;
  recipe["loss"]["start"] = "12+";
  recipe["optimiser"] = {{"learning_rate", 0.05}};
  return recipe;
}

// Texts first and without a graph, then the chains: the same states and gradient as everything at
// once.
void compare_passes(size_t texts) {
  const Recipe r = parsed(prompt_recipe());
  const ShapedConfig shaped =
      shaped_config({"llama", 2, 64, 2, 2, 32, 96, 48, 15, 1e4, 1e-5, false, 0, -1, 13});
  const models::TensorWeights weights = initial_weights(shaped, r.model, 1);
  const Vocabulary vocabulary = make_vocabulary(r.tokenizer);
  const PromptTokens prompts(r.loss, weights, vocabulary, false);
  std::vector<Example> examples(texts);
  for (int i = 0; i < 15 * int(texts) - 2; ++i)
    examples[size_t(i) % texts].tokens.push_back(i % 11);
  const auto sequences = loss_sequences(r.loss, shaped.config, examples, 1, 0);

  const at::Tensor start = prompts.parameters().front().tensor;
  EXPECT_TRUE(same_bits(start[0], weights.embedding[1]));  // "1" is the second character
  const at::Tensor split = start.clone().set_requires_grad(true),
                   once = start.clone().set_requires_grad(true);
  const auto states = prompts.states(shaped.config, sequences, {split}, false);
  EXPECT_FALSE(states.teacher.requires_grad());

  std::vector<Sequence> all;
  std::vector<int> chains, taught_by;
  models::TensorInputs inputs;
  int base = 0;
  for (const LossSequence& s : sequences) {
    for (const int row : s.predicted) chains.push_back(base + row);
    for (const int row : teachers(s)) taught_by.push_back(base + row);
    for (int row = 0; row < s.sequence.rows(); ++row) {
      const int i = row - (s.sequence.rows() - int(s.predicted.size()));
      inputs.rows.push_back(i < 0 ? at::Tensor() : once[i % 3]);
    }
    all.push_back(s.sequence);
    base += s.sequence.rows();
  }
  models::Batch batch = plan_batch(shaped.config, all);
  batch.head_rows = chains;
  batch.head_rows.insert(batch.head_rows.end(), taught_by.begin(), taught_by.end());
  models::TensorKv kv(shaped.config, 0);
  const at::Tensor whole = models::tensor_states(shaped.config, weights, batch, kv, inputs);
  const int64_t n = int64_t(chains.size());
  ASSERT_EQ(states.student.size(0), n);
  EXPECT_GT(n, 15);
  EXPECT_LE(error(states.student.detach(), whole.narrow(0, 0, n).detach().to(at::kDouble)), 1e-5);
  EXPECT_LE(error(states.teacher, whole.narrow(0, n, n).detach().to(at::kDouble)), 1e-5);
  const at::Tensor direction = normal_tensor(3, "direction", states.student.sizes(), 1);
  (states.student * direction).sum().backward();
  (whole.narrow(0, 0, n) * direction).sum().backward();
  EXPECT_LE(error(split.grad(), once.grad().to(at::kDouble)), 1e-5);
}

TEST(PromptTokens, TwoPassesGiveTheGradientOfOne) {
  for (const size_t texts : {1, 3}) compare_passes(texts);
}

TEST(PromptTokens, LearnWhileTheNetworkStays) {
  const formats::TemporaryFolder folder;
  Trainer network(parsed(tiny("llama", "next-token")));
  for (int i = 0; i < 20; ++i) network.train_step();
  network.save_model(folder.path() / "model");
  json recipe = prompt_recipe();
  recipe["model"] = {{"from", (folder.path() / "model").string()}};
  recipe["steps"] = 40;
  Trainer trainer(parsed(recipe));
  EXPECT_EQ(trainer.trained_parameters(), 3 * 64);
  double first = 0, last = 0;
  for (int i = 0; i < 40; ++i) {
    const double loss = trainer.train_step().loss;
    (i < 5 ? first : last) += i < 5 || i >= 35 ? loss : 0;
    if (i == 19) save_state(folder / "half", trainer.state());
  }
  EXPECT_LT(last, 0.8 * first);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "again"));
  trainer.save_model(folder.path() / "again");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "again" / "model.safetensors"));

  Trainer resumed(parsed(recipe));
  resumed.restore(load_state(folder / "half"));
  for (int i = 20; i < 40; ++i) resumed.train_step();
  trainer.save_adapter(folder.path() / "a");
  resumed.save_adapter(folder.path() / "b");
  const auto a = formats::Safetensors::open(folder.path() / "a" / "adapter_model.safetensors"),
             b = formats::Safetensors::open(folder.path() / "b" / "adapter_model.safetensors");
  const auto &x = a.tensor("prompt_embeddings"), &y = b.tensor("prompt_embeddings");
  EXPECT_EQ(x.shape, (std::vector<uint64_t>{3, 64}));
  EXPECT_TRUE(std::ranges::equal(x.data, y.data));
}

TEST(PromptTokens, AStartThatIsNoTokenIsRefused) {
  json recipe = prompt_recipe();
  recipe["loss"]["start"] = "";
  EXPECT_THROW(Trainer{parsed(recipe)}, Error);
}

}  // namespace
}  // namespace tutti::train
