// The keys of relative positions: what a row at distance delta from a key multiplies its query
// with, for every distance that the model's context allows. They depend on the weights alone, so
// they are computed once.
#pragma once

#include <algorithm>
#include <vector>

#include "base/pool.h"
#include "models/config.h"
#include "models/stored_tensor.h"
#include "tensor/matrix.h"

namespace tutti::models {

// R(delta), what XLNet has for a distance: out[t] = sin(delta f_t), out[hidden / 2 + t] = cos(delta
// f_t), f_t = 10000^(-2t / hidden). hidden is even.
void relative_encoding(int hidden, int delta, float* out);

class RelativeKeys {
 public:
  // Of every layer's LayerWeights::relative, on the pool's workers.
  RelativeKeys(const Config& config, const StoredWeights& weights, ComputePool& pool);

  // [distances, head_dim]: row index(delta) is the head's part of relative R(delta).
  const tensor::Matrix& of(int layer, int head) const {
    return keys_[size_t(layer * heads_ + head)];
  }
  // delta = position of the row - position of the key; both lie in the context.
  int index(int delta) const { return std::clamp(delta, -farthest_, farthest_) + farthest_; }
  static int distances(const Config& config) { return 2 * farthest(config) + 1; }

 private:
  static int farthest(const Config& config) {
    const int most = config.context_length - 1;
    return config.clamp_distance > 0 ? std::min(config.clamp_distance, most) : most;
  }
  int heads_, farthest_;
  std::vector<tensor::Matrix> keys_;
};

}  // namespace tutti::models
