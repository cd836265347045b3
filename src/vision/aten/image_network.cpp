#include "vision/aten/image_network.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cstring>

#include "base/error.h"
#include "vision/aten/tower.h"

namespace tutti::vision {
namespace {

struct Loaded {
  VisionConfig config;
  TowerWeights weights;
};

class Batch : public engine::NetworkBatch {
 public:
  Batch(const Loaded& loaded, std::vector<ImageNetwork::Job> jobs)
      : loaded_(loaded), jobs_(std::move(jobs)) {
    passes_.reserve(jobs_.size());
    for (const auto& job : jobs_)
      passes_.emplace_back(loaded_.config, loaded_.weights, job.input->grid);
  }
  // Embedding, blocks, merger.
  int steps() const override { return loaded_.config.depth + 2; }
  void run(Worker& worker, int step) override {
    const at::NoGradGuard no_gradients;
    const auto [first, last] = worker.share(int(jobs_.size()));
    for (int i = first; i < last; ++i) advance(passes_[size_t(i)], jobs_[size_t(i)], step);
    worker.barrier();
  }

 private:
  void advance(TowerPass& pass, const ImageNetwork::Job& job, int step) const {
    if (step == 0) {
      const std::vector<float>& values = job.input->values;
      pass.embed(at::from_blob(
          const_cast<float*>(values.data()),
          {1, job.input->grid.patches(), loaded_.config.preprocessing.patch_values()}));
    } else if (step <= loaded_.config.depth) {
      pass.block(step - 1);
    } else {
      const at::Tensor features = pass.project(pass.merge()).contiguous();
      ImageFeatures& out = *job.output;
      out.cells = int(features.size(1));
      out.hidden = int(features.size(2));
      out.values.assign(features.data_ptr<float>(), features.data_ptr<float>() + features.numel());
    }
  }

  const Loaded& loaded_;
  std::vector<ImageNetwork::Job> jobs_;
  std::vector<TowerPass> passes_;
};

class AtenImageNetwork : public ImageNetwork {
 public:
  explicit AtenImageNetwork(Loaded loaded) : loaded_(std::move(loaded)) {}
  int max_batch() const override { return 16; }
  void check(const Patches& input) const override {
    const Preprocessing& p = loaded_.config.preprocessing;
    const Grid& g = input.grid;
    const bool whole =
        g.t >= 1 && g.h >= p.merge && g.w >= p.merge && g.h % p.merge == 0 && g.w % p.merge == 0;
    if (!whole || input.values.size() != size_t(g.patches()) * size_t(p.patch_values())) {
      throw Error(ErrorKind::kUsage, "image: its patches are not those of its grid");
    }
  }
  std::unique_ptr<engine::NetworkBatch> begin(std::vector<Job> jobs) override {
    return std::make_unique<Batch>(loaded_, std::move(jobs));
  }

 private:
  Loaded loaded_;
};

}  // namespace

std::shared_ptr<ImageNetwork> make_image_network(const models::Checkpoint& checkpoint) {
  at::set_num_threads(1);  // the pool's workers are the threads
  Loaded loaded;
  loaded.config = vision_config(checkpoint);
  loaded.weights = tower_weights(vision_weights(checkpoint, loaded.config));
  return std::make_shared<AtenImageNetwork>(std::move(loaded));
}

}  // namespace tutti::vision
