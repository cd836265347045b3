#include "vision/aten/vision_trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "base/error.h"
#include "vision/aten/tiny_recipe.h"
#include "vision/aten/vision_training.h"
#include "vision/vision_config.h"

namespace tutti::vision {
namespace {

VisionRecipe tiny() { return parse_vision_recipe(kTinyRecipe, "tiny.json"); }

std::map<std::string, std::vector<float>> weights_in(const std::filesystem::path& folder) {
  std::map<std::string, std::vector<float>> out;
  const auto file = formats::Safetensors::open(folder / "model.safetensors");
  for (const auto& t : file.tensors()) {
    std::vector<float> values(t.elements());
    std::memcpy(values.data(), t.data.data(), t.data.size());
    out[t.name] = values;
  }
  return out;
}

TEST(VisionTrainer, PhasesMoveWhatTheyNameAndTheFoldersLoad) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "tutti_vision_trainer_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tiny.json") << kTinyRecipe;
  VisionTrainingRequest request;
  request.recipe = folder / "tiny.json";
  request.folder = folder;
  int steps = 0;
  request.on_step = [&](const VisionStep& s) {
    ++steps;
    EXPECT_TRUE(std::isfinite(s.loss) && s.gradient_norm > 0);
  };
  EXPECT_GT(train_vision(request), 10000);
  EXPECT_EQ(steps, 6);
  const auto a = weights_in(folder / "align"), b = weights_in(folder / "instruct"),
             c = weights_in(folder / "diffusion");
  for (const auto& [name, values] : a) {
    const bool tower = name.starts_with("visual."), projector = name.starts_with("img_projector.");
    EXPECT_EQ(values == b.at(name), tower) << name;
    EXPECT_EQ(b.at(name) == c.at(name), tower || projector) << name;
  }
  for (const char* phase : {"align", "diffusion"}) {
    const models::Checkpoint checkpoint = models::Checkpoint::open(folder / phase);
    const bool causal = checkpoint.config().attention == models::AttentionKind::kCausal;
    EXPECT_EQ(causal, std::string(phase) == "align");
    const VisionConfig config = vision_config(checkpoint);
    EXPECT_EQ(config.window, 2);
    EXPECT_EQ(vision_weights(checkpoint, config).tensors.size(), vision_tensors(config).size());
  }
}

TEST(VisionTrainer, StepsAreAFunctionOfTheRecipe) {
  at::set_num_threads(1);
  std::vector<double> losses[2];
  for (auto& list : losses) {
    VisionTrainer trainer(tiny());
    for (const TrainingPhase& phase : trainer.recipe().phases) {
      trainer.begin(phase);
      for (int i = 0; i < 2; ++i) list.push_back(trainer.train_step().loss);
    }
  }
  EXPECT_EQ(losses[0], losses[1]);
}

// A causal phase does not see behind the predicted token, nor a masked answer's own tokens;
// pictures are seen.
TEST(VisionTrainer, PhasesSeeWhatTheyShould) {
  VisionTrainer trainer(tiny());
  trainer.begin(trainer.recipe().phases[0]);
  const VisionBatch batch = trainer.batch(0);
  VisionBatch one = batch;
  for (auto& s : one.sequences) {
    s.predicted.resize(1);
    s.targets.resize(1);
    s.weights.resize(1);
  }
  const double before = trainer.loss(one).item<double>();
  VisionBatch later = one;
  for (auto& s : later.sequences) s.sequence.tokens.back() = 0;
  for (size_t i = 0; i < one.sequences.size(); ++i) {
    ASSERT_GT(one.sequences[i].sequence.rows() - 1, one.sequences[i].predicted[0]);
  }
  EXPECT_EQ(trainer.loss(later).item<double>(), before);
  VisionBatch other = one;
  for (auto& image : other.images) std::ranges::fill(image.values, 0.5f);
  EXPECT_NE(trainer.loss(other).item<double>(), before);

  trainer.begin(trainer.recipe().phases[2]);
  VisionBatch masked = trainer.batch(0);
  const double full = trainer.loss(masked).item<double>();
  masked.sequences[0].sequence.tokens.back() = 0;
  EXPECT_NE(trainer.loss(masked).item<double>(), full);
}

TEST(VisionTrainer, AnswersOfTheDiffusionPhaseArePadded) {
  VisionTrainer trainer(tiny());
  trainer.begin(trainer.recipe().phases[2]);
  bool longer = false;
  for (int step = 0; step < 4; ++step) {
    const VisionBatch b = trainer.batch(step);
    for (size_t i = 0; i < b.tokens.size(); ++i) {
      const auto end = std::ranges::find(b.tokens[i], b.tokens[i].back());
      const auto pads = b.tokens[i].end() - end - 1;  // behind the first end token
      EXPECT_GE(pads, 1);
      longer = longer || pads > 1;
      EXPECT_EQ(std::count(end, b.tokens[i].end(), *end), pads + 1);
    }
  }
  EXPECT_TRUE(longer);
}

// A phase that begins from none, or from an earlier one, is what it is in a recipe without those
// between.
TEST(VisionTrainer, PhasesBeginFromWhatTheyName) {
  at::set_num_threads(1);
  const auto losses = [](const std::vector<std::pair<size_t, std::string>>& order) {
    VisionRecipe recipe = tiny();
    const std::vector<TrainingPhase> known = recipe.phases;
    recipe.phases.clear();
    for (const auto& [phase, from] : order) {
      recipe.phases.push_back(known[phase]);
      recipe.phases.back().from = from;
    }
    VisionTrainer trainer(recipe);
    std::vector<double> out;
    for (const TrainingPhase& phase : trainer.recipe().phases) {
      trainer.begin(phase);
      out.push_back(0);
      for (int i = 0; i < 2; ++i) out.back() += trainer.train_step().loss;
    }
    return out;
  };
  const auto all =
      losses({{0, ""}, {1, ""}, {2, ""}, {2, "instruct"}, {2, kUntrained}, {2, "align"}});
  EXPECT_EQ(all[3], all[2]);
  EXPECT_EQ(all[4], losses({{2, ""}})[0]);
  EXPECT_EQ(all[5], losses({{0, ""}, {2, ""}})[1]);
  EXPECT_NE(all[5], all[2]);
}

TEST(VisionTrainer, QuestionsShareAPicture) {
  VisionRecipe recipe = tiny();
  recipe.questions = 3;
  VisionTrainer trainer(recipe);
  trainer.begin(trainer.recipe().phases[0]);
  const VisionBatch b = trainer.batch(0);
  ASSERT_EQ(b.pictures.size(), 4u);
  EXPECT_EQ(b.pictures, (std::vector<size_t>{0, 0, 0, 1}));
  EXPECT_EQ(b.images.size(), 2u);
  const double shared = trainer.loss(b).item<double>();
  VisionBatch apart = b;
  apart.images.clear();
  for (size_t i = 0; i < 4; ++i) {
    apart.images.push_back(b.images[b.pictures[i]]);
    apart.pictures[i] = i;
  }
  EXPECT_NEAR(trainer.loss(apart).item<double>(), shared, 1e-6 * shared);
}

TEST(VisionRecipe, MistakesAreNamed) {
  const std::string good = kTinyRecipe;
  const auto said = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    try {
      parse_vision_recipe(text, "r.json");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(said("\"depth\": 2", "\"depht\": 2").find("depth"), std::string::npos);
  EXPECT_NE(said("[\"text\"]", "[\"head\"]").find("train"), std::string::npos);
  EXPECT_NE(said("[1]", "[2]").find("full"), std::string::npos);
  EXPECT_NE(said("\"diffusion\"", "\"../x\"").find("name"), std::string::npos);
  EXPECT_NE(said("\"diffusion\"", "\"align\"").find("name"), std::string::npos);
  EXPECT_NE(said("\"full\", \"train\"", "\"full\", \"from\": \"x\", \"train\"").find("from"),
            std::string::npos);
  EXPECT_NE(said("\"sequences\": 4", "\"sequences\": 4, \"questions\": 5").find("questions"),
            std::string::npos);
  EXPECT_EQ(said("tiny", "other"), "");
}

}  // namespace
}  // namespace tutti::vision
