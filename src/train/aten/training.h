// A whole run.
#pragma once

#include "train/training.h"

namespace tutti::train {

// Runs the recipe to its end, to request.until, or to request.stop; saves the state and the model
// in any case. Throws Error.
TrainingResult run_training(const TrainingRequest& request);

}  // namespace tutti::train
