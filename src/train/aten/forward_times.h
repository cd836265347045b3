#pragma once

#include "train/forward_times.h"

namespace tutti::train {

ForwardTimesResult forward_times(const ForwardTimesRequest& request);

}  // namespace tutti::train
