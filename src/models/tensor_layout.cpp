#include "models/tensor_layout.h"

namespace tutti::models {
namespace {

bool is_gemma(std::string_view architecture) { return architecture.starts_with("gemma"); }

bool has_qk_norm(std::string_view architecture) {
  return architecture == "qwen3" || architecture == "qwen3moe" || architecture == "gemma3" ||
         architecture == "sdar" || architecture == "llada-moe" || architecture == "llada2-moe";
}

// The block's down projection and the head share a leaf name.
TensorLayout llada_layout() {
  TensorLayout t;
  t.embedding = "model.transformer.wte.weight";
  t.output_norm = "model.transformer.ln_f.weight";
  t.head = "model.transformer.ff_out.weight";
  t.layer_prefix = "model.transformer.blocks.";
  t.attn_norm = "attn_norm";
  t.q = "q_proj";
  t.k = "k_proj";
  t.v = "v_proj";
  t.o = "attn_out";
  t.ffn_norm = "ff_norm";
  t.gate = "ff_proj";
  t.up = "up_proj";
  t.down = "ff_out";
  return t;
}

TensorLayout xlnet_layout() {
  TensorLayout t;
  t.embedding = "transformer.word_embedding.weight";
  t.head = "lm_loss.weight";
  t.head_bias = "lm_loss.bias";
  t.mask = "transformer.mask_emb";
  t.layer_prefix = "transformer.layer.";
  t.bare_projections = true;
  t.q = "rel_attn.q";
  t.k = "rel_attn.k";
  t.v = "rel_attn.v";
  t.o = "rel_attn.o";
  t.relative = "rel_attn.r";
  t.content_bias = "rel_attn.r_w_bias";
  t.position_bias = "rel_attn.r_r_bias";
  t.segment_bias = "rel_attn.r_s_bias";
  t.segment_keys = "rel_attn.seg_embed";
  t.attn_norm = "rel_attn.layer_norm";
  t.up = "ff.layer_1";
  t.down = "ff.layer_2";
  t.ffn_norm = "ff.layer_norm";
  t.mlp_bias = Presence::kRequired;
  return t;
}

TensorLayout bert_layout() {
  TensorLayout t;
  t.embedding = "embeddings.word_embeddings.weight";
  t.positions = "embeddings.position_embeddings.weight";
  t.types = "embeddings.token_type_embeddings.weight";
  t.embedding_norm = "embeddings.LayerNorm";
  t.layer_prefix = "encoder.layer.";
  t.q = "attention.self.query";
  t.k = "attention.self.key";
  t.v = "attention.self.value";
  t.o = "attention.output.dense";
  t.attn_norm = "attention.output.LayerNorm";
  t.up = "intermediate.dense";
  t.down = "output.dense";
  t.ffn_norm = "output.LayerNorm";
  return t;
}

// The shared expert stands beside the feed-forward and has no gate.
void name_llada_moe(TensorLayout& t) {
  t.shared_router.clear();
  t.shared_gate = "shared_expert.gate_proj";
  t.shared_up = "shared_expert.up_proj";
  t.shared_down = "shared_expert.down_proj";
}

// Ling's names.
void name_llada2_moe(TensorLayout& t) {
  t.embedding = "model.word_embeddings.weight";
  t.q.clear();
  t.k.clear();
  t.v.clear();
  t.qkv = "attention.query_key_value";
  t.o = "attention.dense";
  t.q_norm = "attention.query_layernorm";
  t.k_norm = "attention.key_layernorm";
  t.router_bias = "mlp.gate.expert_bias";
  t.shared_router.clear();
  t.shared_gate = "mlp.shared_experts.gate_proj";
  t.shared_up = "mlp.shared_experts.up_proj";
  t.shared_down = "mlp.shared_experts.down_proj";
}

}  // namespace

TensorLayout gguf_layout(std::string_view architecture) {
  TensorLayout t;
  t.embedding = "token_embd.weight";
  t.embedding_map = "token_embd_map.weight";
  t.output_norm = "output_norm.weight";
  t.head = "output.weight";
  t.layer_prefix = "blk.";
  t.attn_norm = "attn_norm";
  t.q = "attn_q";
  t.k = "attn_k";
  t.v = "attn_v";
  t.o = "attn_output";
  t.q_norm = "attn_q_norm";
  t.k_norm = "attn_k_norm";
  t.post_attn_norm = "post_attention_norm";
  t.ffn_norm = "ffn_norm";
  t.gate = "ffn_gate";
  t.up = "ffn_up";
  t.down = "ffn_down";
  t.post_ffn_norm = "post_ffw_norm";
  t.router = "ffn_gate_inp";
  t.router_bias = "exp_probs_b.bias";
  if (architecture == "llada2-moe") {
    t.router_biases = Presence::kOptional;
  } else {
    t.shared_router = "ffn_gate_inp_shexp";
  }
  t.shared_gate = "ffn_gate_shexp";
  t.shared_up = "ffn_up_shexp";
  t.shared_down = "ffn_down_shexp";
  t.stacked_gate = "ffn_gate_exps.weight";
  t.stacked_up = "ffn_up_exps.weight";
  t.stacked_down = "ffn_down_exps.weight";
  t.qk_norm = has_qk_norm(architecture);
  t.post_norms = is_gemma(architecture);
  // The converter permutes Q and K of these; the others keep Hugging Face's half-split rows.
  t.interleaved = architecture == "llama" || architecture == "mistral" || architecture == "llada";
  if (architecture == "qwen2" || architecture == "dream") {
    t.qkv_bias = Presence::kRequired;
  } else {
    t.qkv_bias = t.o_bias = is_gemma(architecture) ? Presence::kNever : Presence::kOptional;
  }
  if (t.interleaved) t.mlp_bias = Presence::kOptional;
  return t;
}

TensorLayout hf_layout(std::string_view architecture) {
  if (architecture == "llada") return llada_layout();
  if (architecture == "xlnet") return xlnet_layout();
  if (architecture == "bert") return bert_layout();
  TensorLayout t;
  t.embedding = "model.embed_tokens.weight";
  t.embedding_map = "model.embed_map.weight";
  t.output_norm = "model.norm.weight";
  t.head = "lm_head.weight";
  t.layer_prefix = "model.layers.";
  t.attn_norm = "input_layernorm";
  t.q = "self_attn.q_proj";
  t.k = "self_attn.k_proj";
  t.v = "self_attn.v_proj";
  t.o = "self_attn.o_proj";
  t.q_norm = "self_attn.q_norm";
  t.k_norm = "self_attn.k_norm";
  const bool gemma = is_gemma(architecture);
  t.post_attn_norm = "post_attention_layernorm";
  t.ffn_norm = gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  t.post_ffn_norm = "post_feedforward_layernorm";
  t.gate = "mlp.gate_proj";
  t.up = "mlp.up_proj";
  t.down = "mlp.down_proj";
  const bool mixtral = architecture == "mixtral";
  const std::string block = mixtral ? "block_sparse_moe." : "mlp.";
  t.router = block + "gate";
  t.expert_prefix = block + "experts.";
  t.expert_gate = mixtral ? "w1" : "gate_proj";
  t.expert_up = mixtral ? "w3" : "up_proj";
  t.expert_down = mixtral ? "w2" : "down_proj";
  // How transformers 5 holds them in memory, and writes them when told to keep its own layout.
  t.stacked_gate_up = "mlp.experts.gate_up_proj";
  t.stacked_down = "mlp.experts.down_proj";
  t.router_bias = "mlp.expert_bias";
  t.shared_router = "mlp.shared_expert_gate";
  t.shared_gate = "mlp.shared_expert.gate_proj";
  t.shared_up = "mlp.shared_expert.up_proj";
  t.shared_down = "mlp.shared_expert.down_proj";
  t.qk_norm = has_qk_norm(architecture);
  t.post_norms = gemma;
  t.norm_plus_one = gemma;
  if (architecture == "llada-moe") name_llada_moe(t);
  if (architecture == "llada2-moe") name_llada2_moe(t);
  return t;
}

}  // namespace tutti::models
