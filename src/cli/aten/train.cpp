// What the program finds by name in the library that it opens for training, images and tensors.
#include "train/aten/filter_training.h"
#include "train/aten/forward_times.h"
#include "train/aten/training.h"
#include "vision/aten/image_network.h"
#include "vision/aten/vision_training.h"

extern "C" [[gnu::visibility("default")]] void tutti_train(
    const tutti::train::TrainingRequest& request, tutti::train::TrainingResult& result) {
  result = tutti::train::run_training(request);
}

extern "C" [[gnu::visibility("default")]] void tutti_train_filter(
    const tutti::train::FilterTrainingRequest& request,
    tutti::train::FilterTrainingResult& result) {
  result = tutti::train::train_filter(request);
}

extern "C" [[gnu::visibility("default")]] void tutti_forward_times(
    const tutti::train::ForwardTimesRequest& request, tutti::train::ForwardTimesResult& result) {
  result = tutti::train::forward_times(request);
}

extern "C" [[gnu::visibility("default")]] void tutti_image_network(
    const tutti::models::Checkpoint& checkpoint,
    std::shared_ptr<tutti::vision::ImageNetwork>& network) {
  network = tutti::vision::make_image_network(checkpoint);
}

extern "C" [[gnu::visibility("default")]] void tutti_train_vision(
    const tutti::vision::VisionTrainingRequest& request, int64_t& parameters) {
  parameters = tutti::vision::train_vision(request);
}
