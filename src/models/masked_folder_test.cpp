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
      {dream(), R"({"architectures": ["LLaDAMoEModelLM"]})",
       "architecture \"LLaDAMoEModelLM\" is not known"},
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
