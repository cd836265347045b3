// Beam search: the `width` likeliest prefixes advance together, one row each, all in one forward.
#pragma once

#include "engine/task.h"

namespace tutti::decode {
class Generation;
Task<void> beam(Generation& g);
}  // namespace tutti::decode
