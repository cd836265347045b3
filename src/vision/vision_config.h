// The vision tower of a model folder: its sizes, its tokens, and its tensors by their names there
// (Qwen2.5-VL's tower under "visual.", then Dimple's projector).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/model_folder.h"
#include "models/checkpoint.h"
#include "vision/patches.h"

namespace tutti::vision {

struct VisionConfig {
  int depth = 0, hidden = 0, intermediate = 0, heads = 0;
  int window = 4;            // cells of a window's side
  std::vector<bool> full;    // per block: the whole frame is seen, not the window alone
  int out_hidden = 0;        // of the merger
  int text_hidden = 0;       // of the language model, where the projector leads
  int32_t image_token = -1;  // stands in the prompt for each cell
  int32_t video_token = -1;  // known in order to be refused
  Preprocessing preprocessing;
  static constexpr float kNormEps = 1e-6f;

  int head_dim() const { return hidden / heads; }
  int merged() const { return hidden * preprocessing.merge * preprocessing.merge; }
};

// Whether the folder's config.json has a vision tower.
bool has_vision(const models::Checkpoint& checkpoint);

// From config.json (vision_config and image_token_id, Qwen2.5-VL-7B's sizes where it says nothing)
// and, where there is one, preprocessor_config.json. Throws Error(kUsage) for a model without a
// tower, Error(kBadFile | kUnsupported) naming the key.
VisionConfig vision_config(const models::Checkpoint& checkpoint);

// A tensor of the tower: its name in the folder and its shape.
struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;
};
// All of them, in the order of the network.
std::vector<TensorShape> vision_tensors(const VisionConfig& config);

struct VisionTensor {
  TensorShape shape;
  models::StoredTensor data;
};
// The tensors as they lie in the folder, checked. Throws Error(kBadFile | kUnsupported) naming one
// that is missing, of another shape, or unknown.
struct VisionWeights {
  std::vector<VisionTensor> tensors;
  models::OwnedBytes owned;
};
VisionWeights vision_weights(const models::Checkpoint& checkpoint, const VisionConfig& config);

}  // namespace tutti::vision
