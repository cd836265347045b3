// The tower as an engine's job: bits do not depend on what shares a batch, nor on workers.
#include "vision/aten/image_network.h"

#include <gtest/gtest.h>

#include <cmath>

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/pool.h"
#include "vision/aten/tiny_recipe.h"
#include "vision/aten/tower.h"
#include "vision/aten/vision_trainer.h"

namespace tutti::vision {
namespace {

std::vector<ImageFeatures> run(ImageNetwork& network, const std::vector<Patches>& images,
                               int workers) {
  std::vector<ImageFeatures> out(images.size());
  std::vector<ImageNetwork::Job> jobs;
  for (size_t i = 0; i < images.size(); ++i) jobs.push_back({&images[i], &out[i]});
  const auto batch = network.begin(jobs);
  ComputePool pool(workers);
  for (int step = 0; step < batch->steps(); ++step) {
    pool.run([&](Worker& worker) { batch->run(worker, step); });
  }
  return out;
}

struct World {
  World() {
    const auto folder = std::filesystem::path(testing::TempDir()) / "tutti_image_network_test";
    VisionTrainer trainer(parse_vision_recipe(kTinyRecipe, "tiny.json"));
    trainer.begin(trainer.recipe().phases[2]);
    trainer.save(folder);
    checkpoint = std::make_unique<models::Checkpoint>(models::Checkpoint::open(folder));
    config = vision_config(*checkpoint);
    network = make_image_network(*checkpoint);
    for (uint64_t i = 0; i < 5; ++i) {
      images.push_back(
          patches_of(shape_problem(2, ShapeSplit::kTest, i).image, config.preprocessing, "x"));
    }
  }
  std::unique_ptr<models::Checkpoint> checkpoint;
  VisionConfig config;
  std::shared_ptr<ImageNetwork> network;
  std::vector<Patches> images;
};

TEST(ImageNetwork, BitsDoNotDependOnBatchOrWorkers) {
  World w;
  std::vector<std::vector<float>> alone;
  for (const Patches& image : w.images) alone.push_back(run(*w.network, {image}, 1).front().values);
  for (const int workers : {1, 2, 3}) {
    const auto together = run(*w.network, w.images, workers);
    for (size_t i = 0; i < w.images.size(); ++i) {
      EXPECT_EQ(together[i].cells, w.images[i].grid.cells(2));
      EXPECT_EQ(together[i].hidden, 32);
      EXPECT_EQ(together[i].values, alone[i]) << workers << ' ' << i;
    }
  }
  EXPECT_NE(alone[0], alone[1]);
}

TEST(ImageNetwork, IsTheTowerOfTheFolder) {
  World w;
  const TowerWeights weights = tower_weights(vision_weights(*w.checkpoint, w.config));
  const Patches& image = w.images[0];
  const auto ours = run(*w.network, {image}, 2).front();
  const at::Tensor values = at::tensor(image.values).view({1, image.grid.patches(), -1});
  const at::Tensor expected = tower_features(w.config, weights, image.grid, values).contiguous();
  ASSERT_EQ(size_t(expected.numel()), ours.values.size());
  for (size_t i = 0; i < ours.values.size(); ++i) {
    ASSERT_NEAR(ours.values[i], expected.data_ptr<float>()[i],
                1e-6f * (1 + std::fabs(ours.values[i])));
  }
}

TEST(ImageNetwork, RefusesPatchesOfAnotherGrid) {
  World w;
  Patches wrong = w.images[0];
  wrong.values.pop_back();
  EXPECT_THROW(w.network->check(wrong), Error);
  wrong = w.images[0];
  wrong.grid.h = 3;
  EXPECT_THROW(w.network->check(wrong), Error);
  EXPECT_NO_THROW(w.network->check(w.images[0]));
}

}  // namespace
}  // namespace tutti::vision
