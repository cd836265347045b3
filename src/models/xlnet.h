// XLNet (arXiv 1906.08237), once, over the operations of RowOps or TensorOps. Its two streams are
// two kinds of rows: a content row has a token and sees itself; a query row has the mask vector
// (RowInput::kMask), stands where a token is to be predicted, and does not see itself. Both read
// the keys and values of content rows at the same layer's input. Which rows a row sees, that is,
// the order, is said by its runs alone.
#pragma once

#include "models/config.h"
#include "models/weights.h"

namespace tutti::models {

template <class Ops, class W>
void xlnet_forward(Ops& ops, const Config& config, const W& weights) {
  const typename W::VectorType none{};  // norms follow the residual sums
  auto h = ops.embed(weights.embedding, 1.0f, weights.mask);
  for (int l = 0; l < config.layers; ++l) {
    const auto& layer = weights.layers[size_t(l)];
    ops.enter(h, l);
    auto qkv = ops.norm_qkv(h, none, layer.q, layer.k, layer.v);
    ops.rope_store(l, qkv, none, none, none);
    auto attended = ops.attend_relative(l, qkv, layer);
    ops.linear_layer_norm(h, attended, layer.o, layer.attn_norm, layer.attn_norm_bias);
    auto inner = ops.activated(h, layer.up);
    ops.linear_layer_norm(h, inner, layer.down, layer.ffn_norm, layer.ffn_norm_bias);
  }
  ops.enter(h, config.layers);
  ops.head(h, none, ops.has(weights.head) ? weights.head : weights.embedding, weights.head_bias);
}

}  // namespace tutti::models
