// Training of transfer maps: the graph that serves many anchors at once gives the loss and the
// gradients of anchors one by one, computed the way the network itself knows rows that enter
// between layers; and the maps learn.
#include "train/aten/transfer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "base/draws.h"
#include "base/files.h"
#include "formats/temporary_folder.h"
#include "train/anchored.h"
#include "train/aten/distil_loss.h"
#include "train/aten/tiny_recipe.h"
#include "train/aten/training.h"

namespace tutti::train {
namespace {

using nlohmann::json;

struct Network {
  models::TensorWeights weights;
  ShapedConfig shaped;
};

Network network(int layers) {
  ModelShape shape;
  shape.family = "qwen3";
  shape.layers = layers;
  shape.hidden = 32;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.intermediate = 48;
  shape.context = 64;
  shape.vocab = 40;
  shape.rope_theta = 10000;
  shape.norm_epsilon = 1e-5;
  shape.eos_token = 0;
  ModelRecipe recipe;
  recipe.deviation = 0.3;
  Network n;
  n.shaped = shaped_config(shape);
  n.weights = initial_weights(n.shaped, recipe, 3);
  return n;
}

Example text(uint64_t number, int tokens, int prompt) {
  Draws draws(number);
  Example e;
  for (int i = 0; i < tokens; ++i) e.tokens.push_back(draws.below(40));
  e.prompt = prompt;
  return e;
}

LossOptions options(const std::vector<int>& enter) {
  LossOptions o;
  o.kind = LossKind::kTransfer;
  o.ahead = int(enter.size());
  o.anchors = 5;
  o.transfer.enter = enter;
  return o;
}

std::vector<at::Tensor> moved(const Transfer& transfer, uint64_t seed) {
  std::vector<at::Tensor> values;
  for (const Parameter& p : transfer.parameters()) {
    values.push_back(
        (p.tensor + normal_tensor(seed, p.name, p.tensor.sizes(), 0.1)).requires_grad_());
  }
  return values;
}

const at::Tensor& head_of(const Network& n) {
  return n.weights.head.defined() ? n.weights.head : n.weights.embedding;
}

// One anchor alone, in one forward with its text up to the anchor: rows that take their input from
// another row are the network's own. Returns the states of its rows, [offsets, hidden].
at::Tensor alone(const Network& n, const LossOptions& o, const Example& e, int anchor,
                 const std::vector<at::Tensor>& values) {
  const int offsets = o.ahead, rows = anchor + 1 + offsets, layers = n.shaped.config.layers;
  models::Batch batch;
  models::TensorInputs inputs;
  for (int r = 0; r < rows; ++r) {
    models::RowInput in;
    const int offset = r - anchor - 1;
    in.token = r <= anchor ? e.tokens[size_t(r)] : 0;
    models::LayerRange active{0, layers};
    if (offset >= 0) {
      in.kind = models::RowInput::kFromRow;
      in.row = anchor;
      auto map = std::make_shared<models::LinearMap>();
      map->width = 32;
      inputs.maps[map.get()] = {values[size_t(o.transfer.shared ? 0 : offset)],
                                values[values.size() / 2 + size_t(o.transfer.shared ? 0 : offset)]};
      in.map = std::move(map);
      active.enter = o.transfer.enter[size_t(offset)];
      batch.head_rows.push_back(r);
    }
    batch.inputs.push_back(std::move(in));
    batch.positions.emplace_back(r);
    batch.segments.push_back(0);
    batch.active.push_back(active);
    batch.slots.push_back({r / tensor::kPageSlots, r % tensor::kPageSlots});
  }
  for (int layer = 0; layer < layers; ++layer) {
    models::Epoch epoch;
    epoch.first_layer = layer;
    epoch.last_layer = layer + 1;
    for (int r = 0; r < rows; ++r) {
      if (batch.active[size_t(r)].enter > layer) continue;
      epoch.rows.push_back(r);
      models::RunSpan span;
      span.first = int(batch.runs.size());
      for (int other = 0; other <= r; ++other) {
        const bool there = batch.active[size_t(other)].enter <= layer;
        const bool seen = other <= anchor || other == r || o.transfer.see_previous;
        if (!there || !seen) continue;
        batch.runs.push_back(
            {other / tensor::kPageSlots, uint8_t(other % tensor::kPageSlots), 1, 0});
        ++span.count, ++span.keys;
      }
      epoch.full.push_back(span);
    }
    batch.epochs.push_back(std::move(epoch));
  }
  models::TensorKv nothing(n.shaped.config, 0);
  return models::tensor_states(n.shaped.config, n.weights, batch, nothing, inputs);
}

// The states of the text that say what the rows of the anchor shall say.
at::Tensor teacher_of(const Network& n, const Example& e, int anchor, int offsets) {
  const Sequence whole = plain_sequence(n.shaped.config, e.tokens);
  models::Batch batch = plan_batch(n.shaped.config, std::span(&whole, 1));
  for (int i = 1; i <= offsets; ++i) batch.head_rows.push_back(anchor + i);
  models::TensorKv nothing(n.shaped.config, 0);
  return models::tensor_states(n.shaped.config, n.weights, batch, nothing);
}

void expect_near(const at::Tensor& a, const at::Tensor& b, const std::string& what) {
  const double scale = b.abs().max().item<double>();
  EXPECT_LE((a - b).abs().max().item<double>(), 1e-5 * std::max(scale, 1e-6)) << what;
}

TEST(Transfer, ManyAnchorsAtOnceAreEachAlone) {
  const Network n = network(4);
  for (const auto& [enter, see_previous, shared] :
       {std::tuple(std::vector<int>{2, 2, 2}, true, false),
        {{3, 1, 2}, true, false},
        {{1, 1}, false, false},
        {{2, 2, 2}, true, true},
        {{0, 4}, true, false}}) {
    LossOptions o = options(enter);
    o.transfer.see_previous = see_previous;
    o.transfer.shared = shared;
    const Transfer transfer(o, n.shaped.config, n.weights, 1, false);
    const std::vector<Example> texts{text(1, 18, 3), text(2, 25, 0), text(3, 9, 1)};
    std::vector<LossSequence> sequences = loss_sequences(o, n.shaped.config, texts, 7, 0);
    ASSERT_EQ(sequences.size(), 3u);
    const auto values = moved(transfer, 5), again = moved(transfer, 5);
    const Guesser::States states = transfer.states(n.shaped.config, sequences, values, false);
    at::Tensor loss, sum = at::zeros({});
    std::vector<float> weights;
    std::vector<at::Tensor> students, teachers;
    for (size_t i = 0; i < texts.size(); ++i) {
      for (const double w : sequences[i].weights) weights.push_back(float(w));
      for (const int anchor : sequences[i].sequence.anchors) {
        EXPECT_GE(anchor, texts[i].prompt - 1);
        students.push_back(alone(n, o, texts[i], anchor, again));
        teachers.push_back(teacher_of(n, texts[i], anchor, o.ahead));
      }
    }
    const at::Tensor student = at::cat(students), teacher = at::cat(teachers);
    expect_near(states.student, student, "states");
    expect_near(states.teacher, teacher, "teacher");
    loss = distil_loss(states.student, states.teacher, head_of(n), weights);
    loss.backward();
    // The Kullback-Leibler divergence as ATen has it.
    const at::Tensor log_q = teacher.matmul(head_of(n).t()).log_softmax(1),
                     log_p = student.matmul(head_of(n).t()).log_softmax(1);
    sum = (at::kl_div(log_p, log_q, at::Reduction::None, /*log_target=*/true).sum(1) *
           at::tensor(weights))
              .sum();
    sum.backward();
    EXPECT_NEAR(loss.item<double>(), sum.item<double>(), 1e-5 * sum.item<double>());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(values[i].grad().defined());
      expect_near(values[i].grad(), again[i].grad(), "gradient " + std::to_string(i));
    }
  }
}

// Without layers between, and of Medusa's blocks: written out.
TEST(Transfer, ExitsAndBlocksAreWhatTheyShouldBe) {
  const Network n = network(3);
  const std::vector<Example> texts{text(4, 14, 2)};
  for (const bool medusa : {false, true}) {
    LossOptions o = options({2, 2});
    o.transfer.medusa = medusa;
    o.transfer.refined = false;
    const Transfer transfer(o, n.shaped.config, n.weights, 1, false);
    const auto sequences = loss_sequences(o, n.shaped.config, texts, 7, 0);
    const auto values = moved(transfer, 8);
    const at::Tensor student =
        transfer.states(n.shaped.config, sequences, values, false).student.detach();
    const Sequence whole = plain_sequence(n.shaped.config, texts[0].tokens);
    models::Batch batch = plan_batch(n.shaped.config, std::span(&whole, 1));
    batch.head_rows = {0};
    for (const int anchor : sequences[0].sequence.anchors)
      batch.hidden.push_back({anchor, medusa ? 3 : 2, nullptr});
    models::TensorKv nothing(n.shaped.config, 0);
    const auto hidden = models::tensor_forward(n.shaped.config, n.weights, batch, nothing).hidden;
    const at::NoGradGuard no_gradients;
    const auto rms = [](const at::Tensor& x) { return x / (x.square().mean() + 1e-5).sqrt(); };
    for (size_t a = 0; a < hidden.size(); ++a) {
      for (size_t i = 0; i < 2; ++i) {
        const at::Tensor u = medusa ? rms(hidden[a]) : hidden[a];
        const at::Tensor y = values[i].mv(u) + values[2 + i];
        const at::Tensor x = medusa ? u + y * y.sigmoid() : y;
        expect_near(student[int64_t(2 * a + i)], rms(x) * n.weights.output_norm, "state");
      }
    }
  }
}

TEST(Transfer, FiniteDifferencesAgreeWithTheGradient) {
  Network n = network(3);
  const auto to_double = [](const at::Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; };
  LossOptions o = options({1, 2});
  const Transfer transfer(o, n.shaped.config, n.weights, 1, false);
  const std::vector<Example> texts{text(6, 16, 1)};
  const auto sequences = loss_sequences(o, n.shaped.config, texts, 9, 0);
  std::vector<float> weights(sequences[0].weights.begin(), sequences[0].weights.end());
  auto values = moved(transfer, 11);
  // In fp64 beyond the network's own fp32: the sums of the loss.
  const auto loss_of = [&](const std::vector<at::Tensor>& at_values) {
    const Guesser::States s = transfer.states(n.shaped.config, sequences, at_values, false);
    return distil_loss(to_double(s.student), to_double(s.teacher), to_double(head_of(n)), weights);
  };
  loss_of(values).backward();
  for (size_t i = 0; i < values.size(); ++i) {
    const at::Tensor direction =
        normal_tensor(77, "direction " + std::to_string(i), values[i].sizes(), 1);
    const double slope = (values[i].grad() * direction).sum().item<double>();
    const double step = 2e-3;
    const auto moved_by = [&](double by) {
      const at::NoGradGuard no_gradients;
      auto there = values;
      there[i] = values[i] + direction * by;
      return loss_of(there).item<double>();
    };
    const double measured = (moved_by(step) - moved_by(-step)) / (2 * step);
    EXPECT_NEAR(slope, measured, 1e-2 * std::abs(measured) + 2e-4) << values[i].sizes();
  }
}

// A language in which the next tokens follow from the last one: what stands at the anchor decides
// all offsets, so the maps reach every one.
TEST(Transfer, LearnsACycleWhole) {
  const formats::TemporaryFolder folder;
  std::string cycle, lines;
  for (int i = 0; i < 12; ++i) cycle += "abcdefghijklmnop";
  for (int i = 0; i < 16; ++i) {
    const std::string answer = cycle.substr(size_t(i), 40);
    lines += json{{"prompt", ""}, {"answer", answer}}.dump() + "\n";
  }
  write_file_atomically(folder / "lines.jsonl", lines);
  const json base = json::parse(R"({
    "name": "cycle", "seed": 2,
    "model": {"family": "llama", "layers": 3, "hidden": 32, "heads": 2, "intermediate": 48,
              "context": 48, "deviation": 0.2},
    "tokenizer": {"characters": "abcdefghijklmnop"},
    "data": {"jsonl": "lines.jsonl", "length": 48},
    "loss": {"kind": "next-token"},
    "optimiser": {"learning_rate": 0.01, "clip": 1.0}, "schedule": {"kind": "cosine"},
    "steps": 60, "sequences": 4})");
  const auto run = [&](const json& recipe, const std::string& to) {
    write_file_atomically(folder / "recipe.json", recipe.dump());
    std::vector<GuessReport> reports;
    TrainingRequest request;
    request.recipe = folder / "recipe.json";
    request.folder = folder / to;
    request.on_evaluation = [&](const EvaluationReport& r) {
      if (r.guesses) reports.push_back(*r.guesses);
    };
    run_training(request);
    return reports;
  };
  run(base, "base");
  json recipe = base;
  recipe["model"] = {{"from", (folder / "base/model").string()}};
  recipe["tokenizer"] = {{"from", (folder / "base/model").string()}};
  recipe["optimiser"]["learning_rate"] = 0.02;
  recipe["steps"] = 80;
  recipe["evaluation"] = {{"held_out", "lines.jsonl"}, {"texts", 8}};
  for (const json& loss : {json{{"kind", "transfer"}, {"ahead", 3}, {"enter", 1}},
                           json{{"kind", "transfer"}, {"ahead", 3}, {"map", "medusa"}}}) {
    recipe["loss"] = loss;
    const std::string to = loss.contains("map") ? "blocks" : "maps";
    const auto reports = run(recipe, to);
    ASSERT_EQ(reports.size(), 2u);  // untrained, and at the end
    EXPECT_GT(reports[1].anchors, 100);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(reports[0].accuracy[i][0], 0.2) << to << ", offset " << i;
      // Of the 37 guesses in a line of 40 letters, the last one at the last offset is of the text's
      // end, which nothing foretells.
      const double possible = i == 2 ? 36.0 / 37 : 1;
      EXPECT_GT(reports[1].accuracy[i][0], 0.99 * possible) << to << ", offset " << i;
    }
    const TransferMaps maps = TransferMaps::read(folder / to / "adapter");
    EXPECT_EQ(maps.offsets(), 3);
    EXPECT_EQ(maps.kind == TransferMaps::Kind::kMedusa, loss.contains("map"));
    EXPECT_GT(maps.acceptance[2].back(), 0.9);
    maps.check(models::Checkpoint::open(folder / "base/model"), "maps");
  }
}

}  // namespace
}  // namespace tutti::train
