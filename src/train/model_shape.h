// The networks that are trained here, as the config.json that describes them: the loader
// (models/hf_config.h) stays the one place that gives its keys a meaning.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "models/tensor_layout.h"

namespace tutti::train {

// llama, qwen2, qwen3: causal. llada: llama that sees all and predicts in place. dream: qwen2 that
// sees all, logits shifted by one. sdar: qwen3 that sees blocks. Each masked family has the tensors
// of its causal one. qwen2 is llama with biases of q, k and v: llama's tensors become qwen2's or
// dream's with biases of 0. xlnet: two streams, any order.
std::vector<std::string> family_names();

struct ModelShape {
  std::string family;
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, context = 0,
      vocab = 0;
  double rope_theta = 10000, norm_epsilon = 1e-5;
  bool tied_head = false;
  int block = 0;  // of sdar
  int mask_token = -1, eos_token = -1;
  // Of draft models, as Config's.
  int embedding_width = 0;
  std::vector<int32_t> head_tokens = {};
};

// Throws Error(kUsage) when the family cannot say it: qwen2, llada and dream derive the head
// dimension from the hidden size, a masked family needs a mask token.
nlohmann::ordered_json config_json(const ModelShape& shape);

// The configuration and tensor names that a folder with this config.json has.
struct ShapedConfig {
  models::Config config;
  models::TensorLayout layout;
};
ShapedConfig shaped_config(const ModelShape& shape);

// Of a folder's or a GGUF file's model, as `family` (empty: its own), which must have the same
// tensors, or those of llama when the family's are qwen2's. Throws Error(kUnsupported) naming what
// has no place in a ModelShape.
ModelShape shape_of(const models::Checkpoint& checkpoint, const std::string& family);

}  // namespace tutti::train
