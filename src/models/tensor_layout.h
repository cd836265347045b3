// How a checkpoint names and lays out the tensors of the transformer family: what differs between
// GGUF and Hugging Face and between architectures, so that one loader (weight_loader.h) reads them
// all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::models {

enum class Presence : uint8_t { kNever, kOptional, kRequired };

struct TensorLayout {
  // Whole names.
  std::string embedding, output_norm, head;
  std::string embedding_map;  // whole, too: what `embedding` becomes for draft models that have a
                              // map in its place
  // Before and after a layer's number: "blk." + "7" + ".".
  std::string layer_prefix;
  // Within a layer, without ".weight" or ".bias".
  std::string attn_norm, q, k, v, o, q_norm, k_norm, post_attn_norm;
  std::string
      qkv;  // not empty: Q, K and V are the rows of one tensor, and have no names of their own
  std::string ffn_norm, gate, up, down, post_ffn_norm;
  // shared_router empty: the shared expert has no gate.
  std::string router, shared_router, shared_gate, shared_up, shared_down;
  std::string router_bias;  // with its suffix
  // Experts: one tensor each, "<expert_prefix>7.<expert_gate>.weight"; or stacked over experts
  // [experts, out, in], whole names; or stacked with gate above up, [experts, 2 * out, in], whole
  // names. Empty: not in this layout.
  // XLNet's further ones, with their suffixes; those of q, k, v and o have none (bare_projections).
  std::string relative, content_bias, position_bias, segment_bias, segment_keys;
  std::string head_bias, mask;  // whole
  // BERT's; `embedding_norm` without its suffix, the others whole.
  std::string positions, types, embedding_norm;
  std::string expert_prefix, expert_gate, expert_up, expert_down;
  std::string stacked_gate, stacked_up, stacked_down, stacked_gate_up;

  Presence qkv_bias = Presence::kNever, o_bias = Presence::kNever, mlp_bias = Presence::kNever;
  Presence router_biases = Presence::kNever;
  bool qk_norm = false;
  bool post_norms = false;   // Gemma: after attention and after the feed-forward
  bool interleaved = false;  // Q/K rows are in pairs (2i, 2i + 1)
  bool bare_projections =
      false;  // "rel_attn.q" without ".weight"; stored [in, heads, head_dim] but for o
  bool norm_plus_one = false;  // norm weights w stand for 1 + w
};

// Of a GGUF file of that architecture.
TensorLayout gguf_layout(std::string_view architecture);
// Of a Hugging Face folder; the biases and the head depend on its config.json and are set by the
// caller.
TensorLayout hf_layout(std::string_view architecture);

}  // namespace tutti::models
