// Training itself: a state resumes to the same bits, a saved folder reads back to the same bits,
// every example is taken once. Losses and gradients against PyTorch:
// tests/conformance/test_training.py.
#include "train/aten/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "formats/temporary_folder.h"
#include "train/aten/reference_sampler.h"
#include "train/aten/tiny_recipe.h"
#include "train/aten/training.h"

namespace tutti::train {
namespace {

using formats::TemporaryFolder;
using nlohmann::json;

const bool kOneAtenThread = [] {
  at::set_num_threads(1);
  return true;
}();

void expect_same(const RunState& a, const RunState& b) {
  EXPECT_EQ(a.step, b.step);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_TRUE(b.tensors.contains(name)) << name;
    EXPECT_TRUE(same_bits(tensor, b.tensors.at(name))) << name;
  }
}

TEST(Resume, TenAndTenStepsAreTwenty) {
  const TemporaryFolder folder;
  std::vector<json> recipes{tiny(), tiny("llama", "next-token"), tiny("sdar", "block"),
                            tiny("dream", "masked"), tiny("xlnet", "any-subset")};
  recipes[0]["ema"] = 0.9;
  recipes[1]["optimiser"] = {{"kind", "sgd"}, {"learning_rate", 0.05}, {"momentum", 0.9}};
  recipes[2]["lora"] = {{"rank", 4}};
  recipes[3]["accumulate"] = 2;
  recipes.push_back(recipes[0]);
  recipes.back()["precision"] = "bf16";
  recipes.push_back(recipes[2]);  // adapters beside rounded matrices, as many examples as fit
  recipes.back()["precision"] = "bf16";
  recipes.back().erase("sequences");
  recipes.back()["tokens"] = 90;
  recipes.push_back(recipes[3]);
  recipes.back().erase("sequences");
  recipes.back()["tokens"] = 61;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    if (threads == 2) recipes.resize(1);
    for (const json& recipe : recipes) {
      Trainer unbroken(parsed(recipe)), before(parsed(recipe)), after(parsed(recipe));
      std::vector<double> losses, resumed;
      for (int i = 0; i < 20; ++i) losses.push_back(unbroken.train_step().loss);
      for (int i = 0; i < 10; ++i) resumed.push_back(before.train_step().loss);
      save_state(folder / "state.safetensors", before.state());
      after.restore(load_state(folder / "state.safetensors"));
      EXPECT_EQ(after.step(), 10);
      for (int i = 0; i < 10; ++i) resumed.push_back(after.train_step().loss);
      EXPECT_EQ(losses, resumed) << recipe["model"]["family"];
      expect_same(unbroken.state(), after.state());
      EXPECT_NE(losses[0], losses[19]);
    }
  }
  at::set_num_threads(1);
}

TEST(Resume, RefusesTheStateOfAnotherNetwork) {
  json wide = tiny();
  wide["model"]["intermediate"] = 128;
  Trainer narrow(parsed(tiny())), other(parsed(wide));
  EXPECT_THROW(other.restore(narrow.state()), Error);
}

TEST(Resume, ADamagedStateIsNamed) {
  const TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  EXPECT_THROW(load_state(path), Error);
  write_tensors(path, {{"weight.x", at::ones({2})}}, {{"format", "pt"}});
  EXPECT_THROW(load_state(path), Error);
  write_tensors(path, {},
                {{"format", "tutti-train-1"}, {"step", "ten"}, {"recipe", ""}, {"machine", ""}});
  EXPECT_THROW(load_state(path), Error);
}

TEST(Device, OneThatIsNotThereIsRefusedWithWhatToDo) {
  json recipe = tiny();
  recipe["device"] = "cuda:99";
  try {
    const Trainer trainer(parse_recipe(recipe.dump(), "r.json", "."));
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_TRUE(std::string(e.what()).starts_with("device: is cuda:99, but")) << e.what();
  }
}

TEST(Accumulation, IsOneLargeStep) {
  json apart = tiny();
  apart["sequences"] = 2;
  apart["accumulate"] = 4;
  json together = tiny();
  together["sequences"] = 8;
  Trainer a(parsed(apart)), b(parsed(together));
  for (int i = 0; i < 5; ++i) {
    const double loss = a.train_step().loss;
    EXPECT_NEAR(loss, b.train_step().loss, 1e-5 * loss);
  }
}

// Every tensor of the folder, as the loader has it, is the trainer's.
TEST(SavedModel, ReadsBackBitForBit) {
  const std::pair<std::string, std::string> kKinds[] = {
      {"llama", "next-token"}, {"qwen2", "next-token"}, {"qwen3", "next-token"},
      {"llada", "masked"},     {"dream", "masked"},     {"sdar", "block"},
      {"xlnet", "any-subset"}};
  for (const auto& [family, loss] : kKinds) {
    const TemporaryFolder folder;
    json recipe = tiny(family, loss);
    recipe["model"]["tied_head"] = family == "qwen3";
    Trainer trainer(parsed(recipe));
    for (int i = 0; i < 3; ++i) trainer.train_step();
    trainer.save_model(folder.path());
    const models::Checkpoint checkpoint = models::Checkpoint::open(folder.path());
    const models::Config &got = checkpoint.config(), &expected = trainer.config();
    EXPECT_EQ(got.architecture, family);
    EXPECT_EQ(got.attention, expected.attention);
    EXPECT_EQ(got.attention_block, expected.attention_block);
    EXPECT_EQ(got.shifted_logits, expected.shifted_logits);
    EXPECT_EQ(got.mask_token, expected.mask_token);
    EXPECT_EQ(got.head_dim, expected.head_dim);
    EXPECT_EQ(got.vocab, expected.vocab);
    EXPECT_EQ(got.rope.inverse_frequency, expected.rope.inverse_frequency);
    const ShapedConfig shaped = shaped_config(shape_of(checkpoint, ""));
    const RunState state = trainer.state();
    size_t compared = 0;
    for (const Parameter& p : parameters_of(models::tensor_weights(checkpoint), shaped.layout)) {
      ASSERT_TRUE(state.tensors.contains("weight." + p.name)) << p.name;
      EXPECT_TRUE(same_bits(p.tensor, state.tensors.at("weight." + p.name)))
          << family << " " << p.name;
      ++compared;
    }
    EXPECT_EQ(compared,
              size_t(std::count_if(state.tensors.begin(), state.tensors.end(),
                                   [](const auto& t) { return t.first.starts_with("weight."); })));
    const text::Tokenizer tokenizer = text::Tokenizer::from_hf(
        read_file(folder / "tokenizer.json"), read_file(folder / "tokenizer_config.json"));
    EXPECT_EQ(tokenizer.encode("1+2= 3"), (std::vector<int32_t>{1, 10, 2, 11, 12, 3}));
    EXPECT_EQ(tokenizer.mask(), 14);
    EXPECT_EQ(tokenizer.eos(), 13);
  }
}

TEST(SavedModel, IsTheAverageWhenTheRecipeAsksForOne) {
  const TemporaryFolder folder;
  json recipe = tiny();
  recipe["ema"] = 0.5;
  Trainer trainer(parsed(recipe));
  NamedTensors average;
  for (const auto& [name, t] : trainer.state().tensors) {
    if (name.starts_with("weight.")) average[name.substr(7)] = t.detach().to(at::kDouble);
  }
  for (int i = 0; i < 4; ++i) {
    trainer.train_step();
    for (auto& [name, t] : average)
      t = t * 0.5 + trainer.state().tensors.at("weight." + name).detach() * 0.5;
  }
  trainer.save_model(folder.path());
  const models::Checkpoint checkpoint = models::Checkpoint::open(folder.path());
  for (const Parameter& p : parameters_of(models::tensor_weights(checkpoint),
                                          shaped_config(shape_of(checkpoint, "")).layout)) {
    EXPECT_LT((p.tensor - average.at(p.name)).abs().max().item<double>(), 1e-6) << p.name;
  }
}

// Every forward takes the next examples, as many as its tokens hold, and none twice.
TEST(TokensOfAForward, AreFilledInTheOrderOfTheExamples) {
  json recipe = tiny("llama", "next-token");
  recipe.erase("sequences");
  recipe["tokens"] = 70;
  recipe["accumulate"] = 2;
  const Recipe r = parsed(recipe);
  const Vocabulary vocabulary = make_vocabulary(r.tokenizer);
  const auto examples = make_examples(r.data, r.seed, vocabulary);
  Trainer trainer(r);
  uint64_t next = 0;
  std::set<size_t> counts;
  for (int step = 0; step < 8; ++step) {
    std::vector<LossSequence> sequences;
    const StepReport report = trainer.train_step(&sequences);
    EXPECT_LE(report.tokens, 140);
    EXPECT_GT(report.tokens, 140 - 2 * 40);
    size_t tokens = 0;
    for (int forward = 0; forward < 2; ++forward) {
      size_t in_forward = 0;
      while (in_forward + examples->at(next).tokens.size() <= 70)
        in_forward += examples->at(next++).tokens.size();
      tokens += in_forward;
    }
    EXPECT_EQ(size_t(report.tokens), tokens);
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(sequences[i].sequence.tokens, examples->at(next - sequences.size() + i).tokens);
    }
    counts.insert(sequences.size());
    EXPECT_EQ(trainer.state().examples, int64_t(next));
  }
  EXPECT_GT(counts.size(), 1u);
}

// A state of a program that did not count examples.
TEST(Resume, AStateWithoutACountOfExamplesHasTakenTheSameNumberEachStep) {
  Trainer a(parsed(tiny())), b(parsed(tiny()));
  for (int i = 0; i < 3; ++i) a.train_step();
  RunState state = a.state();
  EXPECT_EQ(state.examples, 12);
  state.examples = -1;
  b.restore(state);
  EXPECT_EQ(a.train_step().loss, b.train_step().loss);
}

TEST(Training, LearnsWhatItSees) {
  const TemporaryFolder folder;
  std::ofstream(folder / "data.jsonl") << R"({"prompt": "1+", "answer": "234"})" << "\n"
                                       << R"({"prompt": "2+", "answer": "987"})" << "\n";
  for (const auto& [family, loss] : {std::pair("llama", "next-token"),
                                     {"llada", "masked"},
                                     {"dream", "masked"},
                                     {"sdar", "block"}}) {
    json recipe = tiny(family, loss);
    recipe["data"] = {{"jsonl", (folder / "data.jsonl").string()}, {"length", 8}, {"pad", true}};
    recipe["schedule"] = {{"kind", "constant"}};
    recipe["steps"] = 150;
    const Recipe r = parsed(recipe);
    Trainer trainer(r);
    for (int i = 0; i < 150; ++i) trainer.train_step();
    const TemporaryFolder saved;
    trainer.save_model(saved.path());
    const models::Checkpoint checkpoint = models::Checkpoint::open(saved.path());
    SamplerOptions options;
    options.length = 8;
    options.block = checkpoint.config().attention_block;
    const auto written = reference_sample(checkpoint.config(), models::tensor_weights(checkpoint),
                                          {{1, 10}, {2, 10}}, options);
    EXPECT_EQ(written[0], (std::vector<int32_t>{1, 10, 2, 3, 4, 13, 13, 13})) << family;
    EXPECT_EQ(written[1], (std::vector<int32_t>{2, 10, 9, 8, 7, 13, 13, 13})) << family;
  }
}

// One forward per token by the plainest loop: softmax of the whole sequence, the surest open
// position of the block.
std::vector<int32_t> plain_sampler(const models::Config& c, const models::TensorWeights& w,
                                   std::vector<int32_t> tokens, int length, int block,
                                   int per_step) {
  const int prompt = int(tokens.size());
  const int shift = c.shifted_logits ? 1 : 0;
  tokens.resize(size_t(length), c.mask_token);
  for (int begin = prompt; begin < length;) {
    const int end = block > 0 ? std::min(length, (begin / block + 1) * block) : length;
    std::vector<int> open;
    for (int i = begin; i < end; ++i) open.push_back(i);
    while (!open.empty()) {
      models::Batch batch = plan_batch(c, std::vector{plain_sequence(c, tokens)});
      for (int i = 0; i < length; ++i) batch.head_rows.push_back(i);
      models::TensorKv kv(c, 0);
      const at::Tensor logits = models::tensor_forward(c, w, batch, kv).logits;
      logits.select(1, c.mask_token).fill_(-INFINITY);
      const at::Tensor p = logits.softmax(-1);
      std::vector<std::pair<float, int>> surest;
      for (const int i : open) surest.emplace_back(-p[i - shift].max().item<float>(), i);
      std::sort(surest.begin(), surest.end());
      for (int k = 0; k < std::min(per_step, int(open.size())); ++k) {
        const int at = surest[size_t(k)].second;
        tokens[size_t(at)] = int32_t(p[at - shift].argmax().item<int64_t>());
      }
      std::erase_if(open, [&](int i) { return tokens[size_t(i)] != c.mask_token; });
    }
    begin = end;
  }
  return tokens;
}

TEST(ReferenceSampler, WritesWhatThePlainLoopWrites) {
  for (const auto& [family, loss] :
       {std::pair("llada", "masked"), {"dream", "masked"}, {"sdar", "block"}}) {
    json recipe = tiny(family, loss);
    recipe["model"]["deviation"] = 0.5;  // opinions of its own
    const TemporaryFolder folder;
    Trainer trainer(parsed(recipe));
    trainer.save_model(folder.path());
    const models::Checkpoint checkpoint = models::Checkpoint::open(folder.path());
    const models::Config& c = checkpoint.config();
    const models::TensorWeights w = models::tensor_weights(checkpoint);
    const std::vector<std::vector<int32_t>> prompts{{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 1, 0, 2}};
    for (const int block : {0, 4, 8}) {
      if (c.attention_block > 0 && block == 0) continue;
      for (const int per_step : {1, 2}) {
        SamplerOptions options;
        options.length = 20;
        options.block = block;
        options.steps = 16 / per_step;
        const auto got = reference_sample(c, w, prompts, options);
        for (size_t i = 0; i < prompts.size(); ++i) {
          EXPECT_EQ(got[i], plain_sampler(c, w, prompts[i], 20, block, per_step))
              << family << ", blocks of " << block;
        }
      }
    }
  }
}

TEST(Run, StopsSavesAndGoesOn) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "recipe.json", tiny().dump());
  const auto run = [&](const std::string& to, auto change) {
    TrainingRequest request;
    request.recipe = folder / "recipe.json";
    request.folder = folder / to;
    change(request);
    return run_training(request);
  };
  run("whole", [](auto&) {});
  std::atomic<bool> stop{false};
  const TrainingResult stopped = run("parts", [&](TrainingRequest& r) {
    r.stop = &stop;
    r.on_step = [&](const StepReport& s) { stop = s.step == 7; };
  });
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.step, 7);
  EXPECT_THROW(run("parts", [](auto&) {}), Error);  // holds a run already
  const TrainingResult more =
      run("parts", [](TrainingRequest& r) { r.resume = true, r.until = 11; });
  EXPECT_EQ(more.first_step, 7);
  EXPECT_EQ(more.step, 11);
  run("parts", [](TrainingRequest& r) { r.resume = true; });
  EXPECT_EQ(read_file(folder / "parts/model/model.safetensors"),
            read_file(folder / "whole/model/model.safetensors"));
  EXPECT_EQ(read_file(folder / "parts/state.safetensors"),
            read_file(folder / "whole/state.safetensors"));

  json other = tiny();
  other["optimiser"]["clip"] = 2.0;
  write_file_atomically(folder / "recipe.json", other.dump());
  try {
    run("parts", [](TrainingRequest& r) { r.resume = true; });
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/optimiser/clip"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tutti::train
