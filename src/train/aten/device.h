// Where a run computes.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace tutti::train {

// Of Recipe::device. Throws Error(kUsage) where this torch sees no such device.
at::Device training_device(const std::string& name);

}  // namespace tutti::train
