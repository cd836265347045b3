// The tensors of a transformer under the names that a layout gives them: the way back of
// weight_loader.h.
#pragma once

#include <string>

#include "models/tensor_layout.h"
#include "models/weights.h"

namespace tutti::models {

// Calls fn(name, tensor) for every part that the structure has a place for, present or not. Experts
// go by their own tensors, never stacked. `W` is Weights<…> or a const one.
template <class W, class Fn>
void for_each_tensor(W& weights, const TensorLayout& t, const Fn& fn) {
  const auto linear = [&](const std::string& name, auto& l) {
    fn(name + ".weight", l.weight);
    fn(name + ".bias", l.bias);
  };
  const auto projection = [&](const std::string& name, auto& l) {
    if (!t.bare_projections) return linear(name, l);
    fn(name, l.weight);
  };
  fn(t.embedding, weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    auto& l = weights.layers[i];
    const std::string at = t.layer_prefix + std::to_string(i) + ".";
    fn(at + t.attn_norm + ".weight", l.attn_norm);
    fn(at + t.attn_norm + ".bias", l.attn_norm_bias);
    projection(at + t.q, l.q);
    projection(at + t.k, l.k);
    projection(at + t.v, l.v);
    fn(at + t.q_norm + ".weight", l.q_norm);
    fn(at + t.k_norm + ".weight", l.k_norm);
    projection(at + t.o, l.o);
    fn(at + t.post_attn_norm + ".weight", l.post_attn_norm);
    fn(at + t.ffn_norm + ".weight", l.ffn_norm);
    fn(at + t.ffn_norm + ".bias", l.ffn_norm_bias);
    linear(at + t.gate, l.gate);
    linear(at + t.up, l.up);
    linear(at + t.down, l.down);
    fn(at + t.post_ffn_norm + ".weight", l.post_ffn_norm);
    fn(at + t.relative, l.relative);
    fn(at + t.content_bias, l.content_bias);
    fn(at + t.position_bias, l.position_bias);
    fn(at + t.segment_bias, l.segment_bias);
    fn(at + t.segment_keys, l.segment_keys);
    fn(at + t.router + ".weight", l.router);
    fn(at + t.router_bias, l.router_bias);
    for (size_t e = 0; e < l.expert_gate.size(); ++e) {
      const std::string one = at + t.expert_prefix + std::to_string(e) + ".";
      fn(one + t.expert_gate + ".weight", l.expert_gate[e]);
      fn(one + t.expert_up + ".weight", l.expert_up[e]);
      fn(one + t.expert_down + ".weight", l.expert_down[e]);
    }
    fn(at + t.shared_gate + ".weight", l.shared_gate);
    fn(at + t.shared_up + ".weight", l.shared_up);
    fn(at + t.shared_down + ".weight", l.shared_down);
    fn(at + t.shared_router + ".weight", l.shared_router);
  }
  fn(t.output_norm, weights.output_norm);
  fn(t.head, weights.head);
  fn(t.head_bias, weights.head_bias);
  fn(t.mask, weights.mask);
  fn(t.positions, weights.positions);
  fn(t.types, weights.types);
  fn(t.embedding_norm + ".weight", weights.embedding_norm);
  fn(t.embedding_norm + ".bias", weights.embedding_norm_bias);
}

}  // namespace tutti::models
