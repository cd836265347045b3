// Tasks of one request that run at the same time: their queries meet in the same ticks.
#pragma once

#include <cstddef>
#include <functional>

#include "engine/task.h"

namespace tutti::decode {

// Runs start(first) … start(last - 1) until all have ended; the first that throws cancels the
// others, and its exception is this one's.
Task<void> side_by_side(size_t first, size_t last, std::function<Task<void>(size_t)> start);

}  // namespace tutti::decode
