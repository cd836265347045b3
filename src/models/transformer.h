// The decoder-only transformer of the Llama family, once. Ops is RowOps (fused CPU kernels; every
// worker runs this function) or TensorOps (ATen). Which parts exist is said by the weights, sizes
// by the Config.
#pragma once

#include "models/config.h"
#include "models/weights.h"

namespace tutti::models {

template <class Ops, class W>
void forward(Ops& ops, const Config& config, const W& weights) {
  auto h = ops.embed(weights.embedding, config.embedding_scale);
  for (int l = 0; l < config.layers; ++l) {
    const auto& layer = weights.layers[size_t(l)];
    ops.enter(h, l);
    auto qkv = ops.norm_qkv(h, layer.attn_norm, layer.q, layer.k, layer.v);
    ops.rope_store(l, qkv, layer.q_norm, layer.k_norm, layer.segments);
    auto attended = ops.attend(l, qkv);
    ops.linear_residual(h, attended, layer.o, layer.post_attn_norm);
    if (config.is_sparse(l)) {
      ops.experts_residual(h, layer);
    } else {
      auto gated = ops.norm_gated(h, layer.ffn_norm, layer.gate, layer.up);
      ops.linear_residual(h, gated, layer.down, layer.post_ffn_norm);
    }
  }
  ops.enter(h, config.layers);
  ops.head(h, weights.output_norm, ops.has(weights.head) ? weights.head : weights.embedding);
}

}  // namespace tutti::models
