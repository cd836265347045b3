// The configuration that a Hugging Face config.json states, in the old keys (rope_theta,
// rope_scaling) and those of transformers 5 (rope_parameters, for Gemma per kind of layer).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/config.h"
#include "models/tensor_layout.h"

namespace tutti::models {

// Also says in `layout` how the folder's tensors are named and which must be there. `place` is the
// file, for errors. Throws Error(kBadFile | kUnsupported) naming the key, the architecture or the
// scaling.
Config hf_config(const nlohmann::json& config, const std::string& place, TensorLayout& layout);

}  // namespace tutti::models
