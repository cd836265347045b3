// BERT (arXiv 1810.04805), an encoder, over the operations of RowOps: every row of a text sees all
// of them, which its runs say; norms follow the residual sums; there is no head.
#pragma once

#include "models/config.h"
#include "models/weights.h"

namespace tutti::models {

template <class Ops, class W>
void bert_forward(Ops& ops, const Config& config, const W& weights) {
  const typename W::VectorType none{};
  auto h = ops.embed_places(weights.embedding, weights.positions, weights.types,
                            weights.embedding_norm, weights.embedding_norm_bias);
  for (int l = 0; l < config.layers; ++l) {
    const auto& layer = weights.layers[size_t(l)];
    ops.enter(h, l);
    auto qkv = ops.norm_qkv(h, none, layer.q, layer.k, layer.v);
    ops.rope_store(l, qkv, none, none, none);
    auto attended = ops.attend(l, qkv);
    ops.linear_layer_norm(h, attended, layer.o, layer.attn_norm, layer.attn_norm_bias);
    auto inner = ops.activated(h, layer.up);
    ops.linear_layer_norm(h, inner, layer.down, layer.ffn_norm, layer.ffn_norm_bias);
  }
  ops.enter(h, config.layers);
}

}  // namespace tutti::models
