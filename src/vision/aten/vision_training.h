// Runs a recipe of vision_training.h.
#pragma once

#include "vision/vision_training.h"

namespace tutti::vision {

// Returns the number of parameters. Throws Error.
int64_t train_vision(const VisionTrainingRequest& request);

}  // namespace tutti::vision
