// For tests: small random models of every architecture, written as GGUF in memory and loaded like
// any other file.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "tensor/quantise.h"

namespace tutti::models {

// A model file in the making: metadata by key and tensors with their bytes, in GGUF's terms.
class Draft {
 public:
  std::map<std::string, formats::GgufValue> keys;

  // Adds a tensor of random values, mean +- spread, dims fastest first, and returns its values.
  std::vector<float> add(const std::string& name, std::vector<uint64_t> dims,
                         tensor::Type type = tensor::Type::kF32, float mean = 0, float spread = 1) {
    uint64_t n = 1;
    for (const uint64_t d : dims) n *= d;
    std::vector<float> values(n);
    std::uniform_real_distribution<float> draw(-1, 1);
    for (float& v : values) v = mean + spread * draw(random_);
    set(name, std::move(dims), values, type);
    return values;
  }
  void set(const std::string& name, std::vector<uint64_t> dims, std::span<const float> values,
           tensor::Type type) {
    std::vector<std::byte> bytes(tensor::row_bytes(type, int64_t(values.size())));
    tensor::quantise(type, values, bytes);
    tensors_[name] = {std::move(dims), type, std::move(bytes)};
  }
  void remove(const std::string& name) { tensors_.erase(name); }

  // The file's bytes live in the returned object's deleter.
  std::shared_ptr<const formats::Gguf> build() const {
    formats::GgufMetadata metadata;
    for (const auto& [key, value] : keys) metadata.emplace_back(key, value);
    std::vector<formats::GgufTensor> tensors;
    for (const auto& [name, t] : tensors_) {
      formats::GgufTensor tensor;
      tensor.name = name;
      tensor.dims = t.dims;
      tensor.type = t.type;
      tensor.data = t.bytes;
      tensors.push_back(std::move(tensor));
    }
    auto bytes = std::make_shared<std::vector<std::byte>>();
    const Sink sink = [&](std::span<const std::byte> part) {
      bytes->insert(bytes->end(), part.begin(), part.end());
    };
    formats::write_gguf(sink, "tiny", metadata, tensors);
    auto* gguf = new formats::Gguf(formats::Gguf::parse(*bytes, "tiny.gguf"));
    return {gguf, [bytes](const formats::Gguf* g) { delete g; }};
  }
  Checkpoint load() const { return Checkpoint::from_gguf(build()); }

 private:
  struct Tensor {
    std::vector<uint64_t> dims;
    tensor::Type type;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, Tensor> tensors_;
  std::mt19937 random_{7};
};

struct DraftShape {
  int layers = 2, hidden = 64, heads = 4, kv_heads = 2, head_dim = 32, wide = 96, vocab = 40;
  int experts = 4, experts_used = 2, expert_wide = 32,
      shared_wide = 48;  // of the *moe architectures
  int context = 256;
  tensor::Type type = tensor::Type::kF32;  // of the matrices
};

// A whole file of the architecture, names as the GGUF converter writes them. Values are scaled so
// that every part of the network matters to the logits and none saturates.
inline Draft draft(const std::string& a, const DraftShape& shape = {}) {
  using formats::GgufValue;
  Draft d;
  const auto key = [&](const char* name, int value) {
    d.keys[a + "." + name] = GgufValue::u32(uint32_t(value));
  };
  const auto matrix = [&](const std::string& name, int in, int out, int count = 1) {
    std::vector<uint64_t> dims{uint64_t(in), uint64_t(out)};
    if (count > 1) dims.push_back(uint64_t(count));
    d.add(name + ".weight", std::move(dims), shape.type, 0, 2.4f / std::sqrt(float(in)));
  };
  const auto vector = [&](const std::string& name, int n, float mean) {
    d.add(name, {uint64_t(n)}, tensor::Type::kF32, mean, 0.25f);
  };
  d.keys["general.architecture"] = GgufValue::string(a);
  d.keys["general.name"] = GgufValue::string("Tiny");
  key("embedding_length", shape.hidden);
  key("block_count", shape.layers);
  key("attention.head_count", shape.heads);
  key("attention.head_count_kv", shape.kv_heads);
  key("attention.key_length", shape.head_dim);
  key("feed_forward_length", shape.wide);
  key("context_length", shape.context);
  d.keys[a + ".attention.layer_norm_rms_epsilon"] = GgufValue::f32(1e-6f);
  const bool moe = a.ends_with("moe"), gemma = a.starts_with("gemma");
  if (a.starts_with("llada") || a == "dream" || a == "sdar") {
    d.keys["tokenizer.ggml.mask_token_id"] = GgufValue::u32(uint32_t(shape.vocab - 1));
    d.keys[a + ".attention.causal"] = GgufValue::boolean(false);
  }
  // LLaDA2: the first layer is dense, unless it is the only one; half of the expert groups is used.
  const bool llada2 = a == "llada2-moe";
  const int dense = llada2 && shape.layers > 1 ? 1 : 0;
  if (moe) {
    key("expert_count", shape.experts);
    key("expert_used_count", shape.experts_used);
    key("expert_feed_forward_length", shape.expert_wide);
    if (a == "qwen2moe" || llada2) key("expert_shared_feed_forward_length", shape.shared_wide);
    if (llada2) {
      key("expert_group_count", shape.experts / 2);
      key("expert_group_used_count", shape.experts / 4);
      key("leading_dense_block_count", dense);
      key("rope.dimension_count", shape.head_dim / 2);
      key("diffusion.block_size", 4);
      d.keys[a + ".expert_weights_scale"] = GgufValue::f32(2.5f);
    }
  }
  const int query = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  matrix("token_embd", shape.hidden, shape.vocab);
  vector("output_norm.weight", shape.hidden, 1);
  for (int l = 0; l < shape.layers; ++l) {
    const std::string at = "blk." + std::to_string(l) + ".";
    vector(at + "attn_norm.weight", shape.hidden, 1);
    matrix(at + "attn_q", shape.hidden, query);
    matrix(at + "attn_k", shape.hidden, kv);
    matrix(at + "attn_v", shape.hidden, kv);
    matrix(at + "attn_output", query, shape.hidden);
    if (a.starts_with("qwen2") || a == "dream") {
      vector(at + "attn_q.bias", query, 0);
      vector(at + "attn_k.bias", kv, 0);
      vector(at + "attn_v.bias", kv, 0);
    }
    if (a.starts_with("qwen3") || a == "gemma3" || a == "sdar" || a == "llada-moe" || llada2) {
      vector(at + "attn_q_norm.weight", shape.head_dim, 1);
      vector(at + "attn_k_norm.weight", shape.head_dim, 1);
    }
    vector(at + "ffn_norm.weight", shape.hidden, 1);
    if (gemma) {
      vector(at + "post_attention_norm.weight", shape.hidden, 1);
      vector(at + "post_ffw_norm.weight", shape.hidden, 1);
    }
    if (moe && l >= dense) {
      matrix(at + "ffn_gate_inp", shape.hidden, shape.experts);
      matrix(at + "ffn_gate_exps", shape.hidden, shape.expert_wide, shape.experts);
      matrix(at + "ffn_up_exps", shape.hidden, shape.expert_wide, shape.experts);
      matrix(at + "ffn_down_exps", shape.expert_wide, shape.hidden, shape.experts);
      if (llada2) vector(at + "exp_probs_b.bias", shape.experts, 0);
      if (a == "qwen2moe") {
        d.add(at + "ffn_gate_inp_shexp.weight", {uint64_t(shape.hidden)}, tensor::Type::kF32, 0,
              0.3f);
      }
      if (a == "qwen2moe" || llada2) {
        matrix(at + "ffn_gate_shexp", shape.hidden, shape.shared_wide);
        matrix(at + "ffn_up_shexp", shape.hidden, shape.shared_wide);
        matrix(at + "ffn_down_shexp", shape.shared_wide, shape.hidden);
      }
    } else {
      matrix(at + "ffn_gate", shape.hidden, shape.wide);
      matrix(at + "ffn_up", shape.hidden, shape.wide);
      matrix(at + "ffn_down", shape.wide, shape.hidden);
    }
  }
  return d;
}

// The same with Mixtral's layout: the architecture llama, whose layers from `dense` on hold
// experts.
inline Draft mixtral_draft(const DraftShape& shape = {}, int dense = 1) {
  using formats::GgufValue;
  Draft d = draft("llama", shape);
  d.keys["llama.expert_count"] = GgufValue::u32(uint32_t(shape.experts));
  d.keys["llama.expert_used_count"] = GgufValue::u32(uint32_t(shape.experts_used));
  d.keys["llama.leading_dense_block_count"] = GgufValue::u32(uint32_t(dense));
  const uint64_t hidden = uint64_t(shape.hidden), wide = uint64_t(shape.wide),
                 experts = uint64_t(shape.experts);
  const float in_spread = 2.4f / std::sqrt(float(hidden)),
              out_spread = 2.4f / std::sqrt(float(wide));
  for (int l = dense; l < shape.layers; ++l) {
    const std::string at = "blk." + std::to_string(l) + ".";
    for (const char* part : {"ffn_gate", "ffn_up", "ffn_down"}) d.remove(at + part + ".weight");
    d.add(at + "ffn_gate_inp.weight", {hidden, experts}, shape.type, 0, in_spread);
    d.add(at + "ffn_gate_exps.weight", {hidden, wide, experts}, shape.type, 0, in_spread);
    d.add(at + "ffn_up_exps.weight", {hidden, wide, experts}, shape.type, 0, in_spread);
    d.add(at + "ffn_down_exps.weight", {wide, hidden, experts}, shape.type, 0, out_spread);
  }
  return d;
}

}  // namespace tutti::models
