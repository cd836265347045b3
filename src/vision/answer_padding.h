// Dimple's answer padding (Yu et al., 2025): without it, a model that fills in a fixed number of
// tokens learns the lengths of its training answers.
#pragma once

#include "base/draws.h"

namespace tutti::vision {

// The length, end token and pads included, to which an answer of `length` tokens (its end token
// included) is filled up: uniform over length + 1 … 2^ceil(log2(length + 1)) below 16, else length
// + 1 … 16 (floor(length / 16) + 1).
int padded_length(int length, Draws& draws);

}  // namespace tutti::vision
