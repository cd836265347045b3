// Rows of a training forward that run through some layers only: which rows a layer computes, and
// which of what they see is there. The engine's plans say the same of queries.
#pragma once

#include <functional>

#include "models/batch.h"

namespace tutti::train {

// Cuts the one epoch of `batch`, which holds all rows, where rows enter or leave (Batch::active)
// among `layers` layers. A row sees of the batch's other rows those that are active in the layer
// and that `sees` lets it see; what lies in the cache it sees as before.
void split_epochs(models::Batch& batch, int layers,
                  const std::function<bool(int row, int other)>& sees);

}  // namespace tutti::train
