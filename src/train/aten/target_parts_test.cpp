// Draft models in training: what they take from the target, against the plain definition, and what
// is saved against what the engine's kernels make of it.
#include "train/aten/target_parts.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
#include "formats/temporary_folder.h"
#include "models/aten/tensor_ops.h"
#include "train/aten/tiny_recipe.h"
#include "train/aten/trainer.h"

namespace tutti::train {
namespace {

TEST(TargetParts, EmbeddingsOfABatchAreTheTargetsThroughTheMap) {
  const at::Tensor table = at::randn({9, 6}), map = at::randn({4, 6}).requires_grad_();
  models::Batch batch;
  const std::vector<int32_t> tokens{7, 2, 7, 0, 8, 2};
  for (const int32_t token : tokens) {
    batch.inputs.emplace_back();
    batch.inputs.back().token = token;
  }
  const at::Tensor got = mapped_embeddings(table, map, batch);
  EXPECT_EQ(got.size(0), 4);  // each token once
  for (size_t i = 0; i < tokens.size(); ++i) {
    const at::Tensor expected = map.detach().matmul(table[tokens[i]]);
    EXPECT_TRUE(at::allclose(got[batch.inputs[i].token].detach(), expected, 1e-5, 1e-6)) << i;
  }
  got.sum().backward();
  EXPECT_TRUE(at::allclose(map.grad()[0], table[7] + table[2] + table[0] + table[8], 1e-5, 1e-5));
}

TEST(TargetParts, DirectionsAreThoseOfMostVariance) {
  // Rows that vary by 5, 3 and 1 along three axes, around a mean along a fourth.
  at::Tensor table = at::randn({400, 6}) * 0.01;
  for (int axis = 0; axis < 3; ++axis)
    table.select(1, axis).add_(at::randn({400}), double(5 - 2 * axis));
  table.select(1, 0).sub_(table.select(1, 0).mean());
  table.select(1, 1).sub_(table.select(1, 1).mean());
  table.select(1, 3).add_(20.0);
  const at::Tensor two = principal_directions(table, 2);
  EXPECT_TRUE(at::allclose(two.matmul(two.t()), at::eye(2), 1e-5, 1e-5));
  EXPECT_LT(two.matmul(table.mean(0)).abs().max().item<double>(), 1e-3);
  // Ascending: the last is the axis of largest variance.
  EXPECT_GT(two[1][0].abs().item<double>(), 0.99);
  EXPECT_GT(two[0][1].abs().item<double>(), 0.99);
}

TEST(TargetParts, TargetsOutsideTheHeadWeighNothing) {
  HeadRows rows;
  rows.targets = {5, 2, 9, 3};
  rows.weights = {1, 2, 3, 4};
  name_head_rows({2, 3, 5}, rows);
  EXPECT_EQ(rows.weights, (std::vector<float>{1, 2, 0, 4}));
  EXPECT_EQ(rows.targets[0], 2);
  EXPECT_EQ(rows.targets[1], 0);
  EXPECT_EQ(rows.targets[3], 1);
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

TEST(TargetParts, ListsOfTokensAreChecked) {
  const formats::TemporaryFolder folder;
  const auto path = folder.path() / "heads.json";
  write(path, "[0, 4, 17]");
  EXPECT_EQ(read_head_tokens(path), (std::vector<int32_t>{0, 4, 17}));
  for (const char* bad : {"[]", "[4, 4]", "[4, 3]", "[-1]", "[1.5]", "[\"a\"]", "{"}) {
    write(path, bad);
    EXPECT_THROW(read_head_tokens(path), Error) << bad;
  }
}

// The loss of a step by the saved draft model with the target's embeddings, in fp64. What its head
// lacks has no probability and counts nothing.
double loss_of(const models::Checkpoint& draft, const std::vector<LossSequence>& step) {
  const models::Config& c = draft.config();
  const models::TensorWeights weights = models::tensor_weights(draft, at::kDouble);
  double sum = 0;
  for (const LossSequence& s : step) {
    models::Batch batch = plan_batch(c, std::span(&s.sequence, 1));
    batch.head_rows = s.predicted;
    models::TensorKv nothing(c, 0, at::kDouble);
    const at::Tensor log_p =
        models::tensor_forward(c, weights, batch, nothing).logits.log_softmax(1);
    for (size_t i = 0; i < s.targets.size(); ++i) {
      const double p = log_p[int64_t(i)][s.targets[i]].item<double>();
      if (std::isfinite(p)) sum -= s.weights[i] * p;
    }
  }
  return sum;
}

nlohmann::json draft_recipe(const std::filesystem::path& target,
                            const std::filesystem::path& heads) {
  nlohmann::json r = tiny("llama", "next-token");
  r["model"]["hidden"] = 32;
  r["model"]["draft_of"] = target.string();
  r["model"]["head_tokens"] = heads.string();
  r["tokenizer"] = {{"from", target.string()}};
  return r;
}

TEST(TargetParts, ADraftModelLearnsAndIsSavedAsItIsServed) {
  const formats::TemporaryFolder folder;
  const auto target = folder.path() / "target", saved = folder.path() / "draft",
             heads = folder.path() / "heads.json";
  Trainer(parsed(tiny("llama", "next-token"))).save_model(target);
  // All but the digit 7.
  write(heads, "[0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14]");
  Trainer trainer(parsed(draft_recipe(target, heads)));
  EXPECT_EQ(trainer.config().embedding_width, 64);
  std::vector<LossSequence> noise;
  double first = trainer.train_step().loss, last = 0;
  for (int i = 0; i < 18; ++i) last = trainer.train_step().loss;
  EXPECT_LT(last, 0.9 * first);
  trainer.save_model(saved);
  models::Checkpoint draft = models::Checkpoint::open(saved);
  const models::Checkpoint full = models::Checkpoint::open(target);
  draft.take_embeddings(full.weights().embedding);
  const double step = trainer.train_step(&noise).loss;  // of the weights that were saved
  const double expected = loss_of(draft, noise);
  // Embeddings are rounded to fp16 when they are served.
  EXPECT_NEAR(step, expected, 2e-3 * expected);
}

TEST(TargetParts, RecipesSayWhatDoesNotGoTogether) {
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"lora", {{"rank", 4}}},
                                   {"evaluation", {{"problems", 4}}}}) {
    nlohmann::json r = draft_recipe("target", "heads.json");
    r[key] = value;
    EXPECT_THROW(parsed(r), Error) << key;
  }
  nlohmann::json ahead = draft_recipe("target", "heads.json");
  ahead["loss"] = {{"kind", "prompt-tokens"}};
  EXPECT_THROW(parsed(ahead), Error);
  nlohmann::json masked = draft_recipe("target", "heads.json");
  masked["model"]["family"] = "llada";
  EXPECT_THROW(parsed(masked), Error);
  nlohmann::json tied = draft_recipe("target", "heads.json");
  tied["model"]["tied_head"] = true;
  EXPECT_THROW(parsed(tied), Error);
}

}  // namespace
}  // namespace tutti::train
