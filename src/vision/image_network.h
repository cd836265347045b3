// The tower as a job of an engine: pictures of several requests wait for it together and go through
// between ticks.
#pragma once

#include <memory>
#include <vector>

#include "engine/network.h"
#include "models/checkpoint.h"
#include "vision/patches.h"

namespace tutti::vision {

// [cells, text hidden]: what stands in the prompt for each merge cell, cells in rows.
struct ImageFeatures {
  int cells = 0, hidden = 0;
  std::vector<float> values;
};

using ImageNetwork = engine::Network<Patches, ImageFeatures>;

// The function of the library that is opened on demand (it uses ATen), and its name there. Throws
// Error: a model without a tower, tensors that are not those of its configuration.
using MakeImageNetwork = void (*)(const models::Checkpoint& checkpoint,
                                  std::shared_ptr<ImageNetwork>& network);
inline constexpr const char* kMakeImageNetwork = "tutti_image_network";

}  // namespace tutti::vision
