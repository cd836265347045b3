// Plain decoding: one token per forward.
#pragma once

#include "engine/task.h"

namespace tutti::decode {
class Generation;
Task<void> plain(Generation& g);
}  // namespace tutti::decode
