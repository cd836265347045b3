// Speculative decoding with a model that drafts: a second model, or the first layers of the same
// one. Sources: Leviathan, Kalman, Matias 2023; Chen et al. 2023; shared noise after Daliri, Musco,
// Suresh 2025 (Gumbel coupling); Elhoushi et al. 2024 (LayerSkip) for early exit.
#pragma once

#include <vector>

#include "decode/method.h"
#include "engine/task.h"

namespace tutti::decode {

class Generation;

// Drafts by GenerationOptions::draft_model.
Task<void> draft(Generation& g);
std::vector<MethodOption> draft_options();

// Drafts by the model's own layers [0, exit_layer), then its final norm and head.
Task<void> early_exit(Generation& g);
std::vector<MethodOption> early_exit_options();

}  // namespace tutti::decode
