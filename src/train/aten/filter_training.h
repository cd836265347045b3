#pragma once

#include "train/filter_training.h"

namespace tutti::train {

// Throws Error(kUsage).
FilterTrainingResult train_filter(const FilterTrainingRequest& request);

}  // namespace tutti::train
