// Guessing the next tokens from the model's own states, by maps that were trained beside it
// (train/transfer_maps.h). Sources: Wu et al. 2024 (Hidden Transfer, arXiv 2404.12022; sheet 05);
// Cai et al. 2024 (Medusa, arXiv 2401.10774) for the baseline.
#pragma once

#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

// One row per future token enters between two layers as a linear map of a verified row's state
// there, and runs through the layers that are left, in the forward that verifies.
Task<void> hidden_transfer(Generation& g);
std::vector<MethodOption> hidden_transfer_options();

// The head reads residual blocks of the last state. Blocks and head are a forward of their own,
// after the one that verifies.
Task<void> medusa(Generation& g);
std::vector<MethodOption> medusa_options();

}  // namespace tutti::decode
