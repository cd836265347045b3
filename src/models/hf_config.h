// The configuration that a Hugging Face config.json states, in the old keys (rope_theta,
// rope_scaling) and those of transformers 5 (rope_parameters, for Gemma per kind of layer).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/config.h"
#include "models/hf_keys.h"
#include "models/rope.h"
#include "models/tensor_layout.h"

namespace tutti::models {

// Also says in `layout` how the folder's tensors are named and which must be there. `place` is the
// file, for errors. Throws Error(kBadFile | kUnsupported) naming the key, the architecture or the
// scaling.
Config hf_config(const nlohmann::json& config, const std::string& place, TensorLayout& layout);

// The activation that `key` calls `name`. Throws Error(kUnsupported).
tensor::Activation named_activation(const HfKeys& keys, const char* key, const std::string& name);

// The rotary embedding as the folder states it, before it becomes frequencies: of full layers, and
// of sliding ones where they have their own. `config` is hf_config's. Throws Error(kBadFile |
// kUnsupported).
struct HfRopes {
  RopeParameters full;
  std::optional<RopeParameters> sliding;
};
HfRopes hf_ropes(const nlohmann::json& object, const std::string& place, const Config& config);

}  // namespace tutti::models
