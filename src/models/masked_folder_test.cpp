// The folders of masked diffusion models: keys, sizes and tensor names as sheet 00 lists them.
// Logits, losses and gradients against an independent network: tests/conformance/test_training.py.
#include <gtest/gtest.h>

#include <cmath>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/error.h"
#include "models/hf_config.h"
#include "models/weight_names.h"

namespace tutti::models {
namespace {

using nlohmann::json;

// LLaDA-8B's config.json, as far as it decides anything.
json llada() {
  return json::parse(R"({
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "d_model": 4096, "n_layers": 32, "n_heads": 32,
    "n_kv_heads": 32, "mlp_hidden_size": 12288, "mlp_ratio": 4, "embedding_size": 126464, "vocab_size": 126464,
    "max_sequence_length": 4096, "rope": true, "rope_theta": 500000.0, "rope_full_precision": true,
    "rms_norm_eps": 1e-5, "layer_norm_type": "rms", "layer_norm_with_affine": true, "attention_layer_norm": false,
    "activation_type": "silu", "block_type": "llama", "block_group_size": 1, "include_bias": false,
    "include_qkv_bias": false, "weight_tying": false, "scale_logits": false, "input_emb_norm": false,
    "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081, "use_cache": false
  })");
}

json dream() {
  return json::parse(R"({
    "architectures": ["DreamModel"], "model_type": "Dream", "hidden_size": 3584, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
    "tie_word_embeddings": false, "mask_token_id": 151666, "use_sliding_window": false, "sliding_window": null,
    "max_window_layers": 28
  })");
}

json sdar() {
  return json::parse(R"({
    "architectures": ["SDARForCausalLM"], "model_type": "sdar", "hidden_size": 2560, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728,
    "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
    "tie_word_embeddings": false, "attention_bias": false, "block_size": 4, "mask_token_id": 151669,
    "use_sliding_window": false, "fuse_cross_entropy": false
  })");
}

// LLaDA-MoE-7B-A1B's, which has no name of its own for the type and none for the mask.
json llada_moe() {
  return json::parse(R"({
    "architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "hidden_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": 16, "dense_intermediate_size": 8192,
    "expert_intermediate_size": 1024, "shared_expert_intermediate_size": null, "num_experts": 64,
    "num_experts_per_tok": 8, "moe_layer_freq": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "moe_router_enable_expert_bias": false, "moe_router_score_function": "softmax", "norm_topk_prob": null,
    "routed_scaling_factor": 1, "router_num_group": null, "router_topk_group": null, "qk_layernorm": true,
    "attention_bias": false, "clip_qkv": null, "hidden_act": "silu", "vocab_size": 157184,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 50000, "partial_rotary_factor": 1,
    "rope_scaling": null, "tie_word_embeddings": false, "eos_token_id": 156892, "pad_token_id": 156892
  })");
}

// LLaDA2.0-mini's.
json llada2() {
  return json::parse(R"({
    "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "hidden_size": 2048, "num_hidden_layers": 20,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 5120,
    "moe_intermediate_size": 512, "num_experts": 256, "num_shared_experts": 1, "num_experts_per_tok": 8,
    "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": true, "score_function": "sigmoid",
    "moe_router_enable_expert_bias": true, "first_k_dense_replace": 1, "partial_rotary_factor": 0.5,
    "rope_theta": 600000, "rope_scaling": null, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768,
    "use_qkv_bias": false, "use_bias": false, "norm_head": false, "use_sliding_window": false, "hidden_act": "silu",
    "tie_word_embeddings": false, "vocab_size": 157184, "pad_token_id": 156892
  })");
}

std::set<std::string> tensor_names(const Config& config, const TensorLayout& layout) {
  Weights<int, int> weights;
  weights.layers.resize(size_t(config.layers));
  std::set<std::string> names;
  for_each_tensor(weights, layout, [&](const std::string& name, int&) { names.insert(name); });
  return names;
}

TEST(MaskedFolder, LladaHasKeysOfItsOwn) {
  TensorLayout layout;
  const Config c = hf_config(llada(), "config.json", layout);
  EXPECT_EQ(c.architecture, "llada");
  EXPECT_EQ(c.hidden, 4096);
  EXPECT_EQ(c.layers, 32);
  EXPECT_EQ(c.kv_heads, 32);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.intermediate, 12288);
  EXPECT_EQ(c.context_length, 4096);
  EXPECT_EQ(c.vocab, 126464);
  EXPECT_FALSE(c.tied_head);
  EXPECT_EQ(c.attention, AttentionKind::kBidirectional);
  EXPECT_FALSE(c.shifted_logits);
  EXPECT_EQ(c.mask_token, 126336);
  EXPECT_EQ(c.rope.inverse_frequency.size(), 64u);
  EXPECT_NEAR(c.rope.inverse_frequency[1], std::pow(500000.0, -2.0 / 128), 1e-7);
  const auto names = tensor_names(c, layout);
  for (const char* name :
       {"model.transformer.wte.weight", "model.transformer.ln_f.weight",
        "model.transformer.ff_out.weight", "model.transformer.blocks.31.attn_norm.weight",
        "model.transformer.blocks.31.ff_norm.weight", "model.transformer.blocks.31.q_proj.weight",
        "model.transformer.blocks.31.k_proj.weight", "model.transformer.blocks.31.v_proj.weight",
        "model.transformer.blocks.31.attn_out.weight", "model.transformer.blocks.31.ff_proj.weight",
        "model.transformer.blocks.31.up_proj.weight",
        "model.transformer.blocks.31.ff_out.weight"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_EQ(layout.qkv_bias, Presence::kNever);
}

TEST(MaskedFolder, DreamIsQwen2SeenFromBothSidesAndShifted) {
  TensorLayout layout;
  const Config c = hf_config(dream(), "config.json", layout);
  EXPECT_EQ(c.attention, AttentionKind::kBidirectional);
  EXPECT_TRUE(c.shifted_logits);
  EXPECT_EQ(c.mask_token, 151666);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_TRUE(c.sliding.empty());
  EXPECT_EQ(layout.qkv_bias, Presence::kRequired);
  EXPECT_EQ(layout.o_bias, Presence::kNever);
  EXPECT_FALSE(layout.qk_norm);
  EXPECT_TRUE(tensor_names(c, layout).contains("model.layers.27.self_attn.q_proj.bias"));
}

TEST(MaskedFolder, SdarIsQwen3SeenInBlocks) {
  TensorLayout layout;
  Config c = hf_config(sdar(), "config.json", layout);
  EXPECT_EQ(c.attention, AttentionKind::kBlockCausal);
  EXPECT_EQ(c.attention_block, 4);
  EXPECT_FALSE(c.shifted_logits);
  EXPECT_EQ(c.head_dim, 128);  // 32 heads of it are wider than the hidden size
  EXPECT_TRUE(layout.qk_norm);
  EXPECT_EQ(layout.qkv_bias, Presence::kNever);
  json other = sdar();
  other["block_size"] = 32;
  EXPECT_EQ(hf_config(other, "config.json", layout).attention_block, 32);
  EXPECT_THROW(require_causal(c, "plain"), Error);
  c.attention = AttentionKind::kCausal;
  EXPECT_NO_THROW(require_causal(c, "plain"));
}

TEST(MaskedFolder, LladaMoeIsOlmoeSeenFromBothSides) {
  TensorLayout layout;
  const Config c = hf_config(llada_moe(), "config.json", layout);
  EXPECT_EQ(c.architecture, "llada-moe");
  EXPECT_EQ(c.attention, AttentionKind::kBidirectional);
  EXPECT_FALSE(c.shifted_logits);
  EXPECT_EQ(c.mask_token, 156895);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.intermediate, 8192);
  EXPECT_EQ(c.rope.inverse_frequency.size(), 64u);
  EXPECT_EQ(c.experts.count, 64);
  EXPECT_EQ(c.experts.used, 8);
  EXPECT_EQ(c.experts.intermediate, 1024);
  EXPECT_EQ(c.experts.shared_intermediate, 0);
  EXPECT_EQ(c.experts.score, Experts::Score::kSoftmax);
  EXPECT_FALSE(c.experts.normalise);
  EXPECT_FALSE(c.experts.bias_weighs);
  EXPECT_EQ(c.experts.scale, 1.0f);
  EXPECT_EQ(layout.router_biases, Presence::kNever);
  EXPECT_TRUE(layout.qk_norm);
  for (int l = 0; l < 16; ++l) EXPECT_TRUE(c.is_sparse(l));
  EXPECT_TRUE(tensor_names(c, layout).contains("model.layers.15.mlp.gate.weight"));

  json other = llada_moe();
  other.merge_patch(
      json::parse(R"({"moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
      "shared_expert_intermediate_size": 256, "moe_router_enable_expert_bias": true, "qk_layernorm": false})"));
  const Config d = hf_config(other, "config.json", layout);
  EXPECT_FALSE(d.is_sparse(0));
  EXPECT_TRUE(d.is_sparse(1));
  EXPECT_EQ(d.experts.shared_intermediate, 256);
  EXPECT_TRUE(d.experts.bias_weighs);
  EXPECT_EQ(layout.router_biases, Presence::kRequired);
  EXPECT_FALSE(layout.qk_norm);
}

TEST(MaskedFolder, Llada2IsLingSeenInBlocks) {
  TensorLayout layout;
  const Config c = hf_config(llada2(), "config.json", layout);
  EXPECT_EQ(c.architecture, "llada2-moe");
  EXPECT_EQ(c.attention, AttentionKind::kBlockCausal);
  EXPECT_EQ(c.attention_block, 32);
  EXPECT_EQ(c.mask_token, 156895);
  EXPECT_EQ(c.rope.inverse_frequency.size(), 32u);  // half of a head is turned
  EXPECT_EQ(c.experts.count, 256);
  EXPECT_EQ(c.experts.used, 8);
  EXPECT_EQ(c.experts.intermediate, 512);
  EXPECT_EQ(c.experts.shared_intermediate, 512);
  EXPECT_EQ(c.experts.score, Experts::Score::kSigmoid);
  EXPECT_FALSE(c.experts.bias_weighs);
  EXPECT_EQ(c.experts.groups, 8);
  EXPECT_EQ(c.experts.used_groups, 4);
  EXPECT_TRUE(c.experts.normalise);
  EXPECT_EQ(c.experts.scale, 2.5f);
  EXPECT_FALSE(c.is_sparse(0));
  EXPECT_TRUE(c.is_sparse(19));
  EXPECT_EQ(layout.router_biases, Presence::kRequired);
  EXPECT_EQ(layout.qkv_bias, Presence::kNever);
  EXPECT_TRUE(layout.qk_norm);
  EXPECT_EQ(layout.embedding, "model.word_embeddings.weight");
  EXPECT_EQ(layout.qkv, "attention.query_key_value");
  const auto names = tensor_names(c, layout);
  for (const char* name :
       {"model.layers.19.attention.dense.weight",
        "model.layers.19.attention.query_layernorm.weight", "model.layers.19.mlp.gate.expert_bias",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.19.mlp.shared_experts.down_proj.weight"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST(MaskedFolder, WhatCannotBeIsNamedByTheFilesOwnKey) {
  const struct {
    json config;
    const char* patch;
    const char* expected;
  } kCases[] = {
      {llada(), R"({"d_model": null})", "key \"d_model\" is missing"},
      {llada(), R"({"n_layers": "many"})", "key \"n_layers\" is no number"},
      {llada(), R"({"attention_layer_norm": true})", "key \"attention_layer_norm\" is true"},
      {llada(), R"({"layer_norm_type": "low_precision"})",
       "key \"layer_norm_type\" is \"low_precision\""},
      {llada(), R"({"block_type": "sequential"})", "key \"block_type\" is \"sequential\""},
      {llada(), R"({"activation_type": "swiglu"})", "key \"activation_type\" is \"swiglu\""},
      {llada(), R"({"block_group_size": 2})", "block_group_size"},
      {llada(), R"({"rope": false})", "key \"rope\" is false"},
      {llada(), R"({"mask_token_id": 126464})", "mask token is 126464"},
      {sdar(), R"({"block_size": 0})", "attention block is 0"},
      {llada_moe(), R"({"expert_intermediate_size": null})",
       "key \"expert_intermediate_size\" is missing"},
      {llada_moe(), R"({"moe_layer_freq": [1, 1]})", "key \"moe_layer_freq\" is no list"},
      {llada_moe(), R"({"moe_router_score_function": "sigmoid"})",
       "key \"moe_router_score_function\" is \"sigmoid\""},
      {llada_moe(), R"({"norm_topk_prob": true})", "key \"norm_topk_prob\" is true"},
      {llada_moe(), R"({"clip_qkv": 8.0})", "key \"clip_qkv\" is given"},
      {llada2(), R"({"topk_group": 9})", "expert groups used per token is 9"},
      {llada2(), R"({"n_group": 7})", "do not divide the experts"},
      {llada2(), R"({"n_group": 256})", "group has a single expert"},
      {llada2(), R"({"n_group": 64, "topk_group": 1})", "fewer experts than a token uses"},
      {llada2(), R"({"score_function": "softmax"})", "key \"score_function\" is \"softmax\""},
      {llada2(), R"({"norm_head": true})", "key \"norm_head\" is true"},
      {dream(), R"({"architectures": ["LLaDAViModelLM"]})",
       "architecture \"LLaDAViModelLM\" is not known"},
  };
  for (const auto& c : kCases) {
    json config = c.config;
    config.merge_patch(json::parse(c.patch));
    TensorLayout layout;
    try {
      hf_config(config, "config.json", layout);
      ADD_FAILURE() << c.patch;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(c.expected), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace tutti::models
