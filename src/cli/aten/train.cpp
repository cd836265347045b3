// What the program finds by name in the library that it opens for training.
#include "train/aten/training.h"

extern "C" [[gnu::visibility("default")]] void tutti_train(
    const tutti::train::TrainingRequest& request, tutti::train::TrainingResult& result) {
  result = tutti::train::run_training(request);
}
