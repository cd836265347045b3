// Qwen2.5-VL's vision tower (Bai et al., 2025) and Dimple's projector (Yu et al., 2025) over ATen,
// once: for running and for training. Any float type; gradients reach the weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "vision/patches.h"
#include "vision/vision_config.h"

namespace tutti::vision {

using TowerWeights =
    std::map<std::string, at::Tensor>;  // by the folder's names, shapes of vision_tensors()

// The stored tensors widened to `dtype`.
TowerWeights tower_weights(const VisionWeights& stored, at::ScalarType dtype = at::kFloat);

// Pictures of one grid on their way through the tower, block by block.
class TowerPass {
 public:
  // `config` and `weights` outlive it.
  TowerPass(const VisionConfig& config, const TowerWeights& weights, const Grid& grid);

  // values: [pictures, patches, patch values]. Then block(0) … block(depth - 1), then merge().
  void embed(const at::Tensor& values);
  void block(int index);
  // [pictures, cells, out_hidden], cells in rows.
  at::Tensor merge() const;
  // [pictures, cells, text_hidden]
  at::Tensor project(const at::Tensor& merged) const;

 private:
  // Windows of equal size, attended together: places of their patches in window order, [windows,
  // patches of one].
  struct Segments {
    at::Tensor places;
  };
  const at::Tensor& weight(const std::string& name) const;
  at::Tensor linear(const at::Tensor& x, const std::string& name) const;
  at::Tensor norm(const at::Tensor& x, const std::string& name) const;
  at::Tensor attention(const at::Tensor& x, const std::string& at, bool full) const;
  at::Tensor rotate(const at::Tensor& x) const;

  const VisionConfig& config_;
  const TowerWeights& weights_;
  int pictures_ = 0;
  std::vector<Segments> windows_, frames_;
  at::Tensor order_, back_;  // cells to window order, and from it
  at::Tensor cos_, sin_;     // [patches, 1, head_dim], in window order
  at::Tensor h_;             // [pictures, patches, hidden], in window order
};

// The whole way: [pictures, cells, text_hidden].
at::Tensor tower_features(const VisionConfig& config, const TowerWeights& weights, const Grid& grid,
                          const at::Tensor& values);

}  // namespace tutti::vision
