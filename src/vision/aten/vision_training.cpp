#include "vision/aten/vision_training.h"

#include <ATen/Parallel.h>

#include "base/error.h"
#include "base/files.h"
#include "vision/aten/vision_trainer.h"

namespace tutti::vision {

int64_t train_vision(const VisionTrainingRequest& request) {
  at::set_num_threads(request.threads);
  const std::string text = read_file(request.recipe);
  VisionTrainer trainer(parse_vision_recipe(text, request.recipe.string()));
  std::filesystem::create_directories(request.folder);
  write_file_atomically(request.folder / "recipe.json", text);
  for (const TrainingPhase& phase : trainer.recipe().phases) {
    trainer.begin(phase);
    bool stopped = false;
    for (int64_t step = 0; step < phase.steps && !stopped; ++step) {
      const VisionStep report = trainer.train_step();
      if (request.on_step) request.on_step(report);
      stopped = request.stop && request.stop->load();
    }
    trainer.save(request.folder / phase.name);
    if (stopped) break;
  }
  return trainer.parameters();
}

}  // namespace tutti::vision
