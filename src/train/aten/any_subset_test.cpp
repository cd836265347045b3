// The any-subset loss of a two-stream network: what training computes is what the engine's kernels
// compute.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/temporary_folder.h"
#include "models/aten/tensor_ops.h"
#include "models/model.h"
#include "train/aten/trainer.h"

namespace tutti::train {
namespace {

using nlohmann::json;

Recipe recipe(const char* loss) {
  json r = json::parse(R"({
    "name": "tiny", "seed": 5,
    "model": {"family": "xlnet", "layers": 2, "hidden": 64, "heads": 4, "intermediate": 96, "context": 48,
              "deviation": 0.1, "tied_head": true},
    "tokenizer": {"characters": "0123456789+= "},
    "data": {"generator": "addition", "length": 40},
    "optimiser": {"learning_rate": 0.003, "clip": 1.0},
    "steps": 60, "sequences": 8
  })");
  r["loss"] = json::parse(loss);
  return parse_recipe(r.dump(), "tiny.json", "");
}

constexpr const char* kJoint =
    R"({"kind": "any-subset", "mean": "masked", "low": 0.2, "high": 0.9})";

// Logits of the batch's head rows by the kernels, keys and values in fp32.
std::vector<std::vector<float>> by_kernels(
    const std::shared_ptr<const models::Checkpoint>& checkpoint, const models::Batch& batch) {
  ComputePool pool(1);
  const models::Model model(checkpoint, tensor::Arithmetic::kExactF32, pool);
  const tensor::KvLayout layout = model.kv_layout(tensor::KvType::kF32);
  const int pages = batch.rows() / tensor::kPageSlots + 1;
  tensor::AlignedBytes memory(layout.page_bytes() * size_t(pages));
  std::vector<std::byte*> places;
  for (int p = 0; p < pages; ++p) places.push_back(memory.data() + layout.page_bytes() * size_t(p));
  std::vector<std::vector<float>> logits(batch.head_rows.size());
  models::RowWorkspace space;
  model.forward(pool, batch, {layout, places.data()}, space,
                [&](int, int index, std::span<float> row) {
                  logits[size_t(index)].assign(row.begin(), row.end());
                });
  return logits;
}

TEST(AnySubset, TrainingComputesWhatTheKernelsCompute) {
  const formats::TemporaryFolder folder;
  Trainer trainer(recipe(kJoint));
  std::vector<LossSequence> noise;
  double loss = 0;
  for (int i = 0; i < 3; ++i) loss = trainer.train_step(&noise).loss;
  EXPECT_GT(loss, 0);
  trainer.save_model(folder.path());
  const auto checkpoint =
      std::make_shared<const models::Checkpoint>(models::Checkpoint::open(folder.path()));
  std::vector<Sequence> rows;
  std::vector<int> wanted;
  int base = 0;
  for (const LossSequence& s : noise) {
    for (const int row : s.predicted) wanted.push_back(base + row);
    rows.push_back(s.sequence);
    base += s.sequence.rows();
  }
  models::Batch batch = plan_batch(checkpoint->config(), rows);
  batch.head_rows = wanted;
  models::TensorKv nothing(checkpoint->config(), 0, at::kDouble);
  const at::Tensor expected =
      models::tensor_forward(checkpoint->config(), models::tensor_weights(*checkpoint, at::kDouble),
                             batch, nothing)
          .logits;
  const auto got = by_kernels(checkpoint, batch);
  double gap = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    gap = std::max(
        gap,
        (at::tensor(got[i]).to(at::kDouble) - expected[int64_t(i)]).abs().max().item<double>());
  }
  EXPECT_LE(gap, 2e-5 * expected.abs().max().item<double>());
  EXPECT_GT(got.size(), 20u);
}

TEST(AnySubset, LearnsAndEveryPartOfTheNetworkMoves) {
  Trainer trainer(recipe(kJoint));
  const RunState before = trainer.state();
  NamedTensors start;
  for (const auto& [name, t] : before.tensors) start[name] = t.detach().clone();
  double first = 0, last = 0;
  for (int i = 0; i < 60; ++i) {
    const double loss = trainer.train_step().loss;
    (i < 10 ? first : last) += i < 10 || i >= 50 ? loss / 10 : 0;
  }
  EXPECT_LT(last, 0.9 * first);
  for (const auto& [name, t] : trainer.state().tensors) {
    if (!name.starts_with("weight.")) continue;
    // One segment: what tells segments apart is not asked.
    const bool still = name.ends_with("seg_embed") || name.ends_with("r_s_bias");
    EXPECT_EQ(at::equal(t, start.at(name)), still) << name;
  }
}

}  // namespace
}  // namespace tutti::train
