// For tests: a small random model of the real network, written as a GGUF file and loaded like any other.
#pragma once

#include <memory>

#include "base/philox.h"
#include "formats/gguf.h"
#include "models/model.h"
#include "tensor/quantise.h"

namespace tutti::engine {

struct TinyModel {
  std::shared_ptr<ComputePool> pool;
  std::shared_ptr<const models::Model> model;
};

// Two layers, hidden 64, 4 heads of 16 over 2 KV heads, 96 tokens. `window` > 0: the first layer slides (gemma3).
inline TinyModel tiny_model(tensor::Type type, tensor::Arithmetic arithmetic, int threads, int window = 0) {
  using formats::GgufValue;
  constexpr int kHidden = 64, kLayers = 2, kHeads = 4, kKvHeads = 2, kDim = 16, kInner = 128, kVocab = 96;
  const std::string arch = window > 0 ? "gemma3" : "qwen3";
  formats::GgufMetadata metadata{
      {"general.architecture", GgufValue::string(arch)},
      {arch + ".context_length", GgufValue::u32(8192)},
      {arch + ".embedding_length", GgufValue::u32(kHidden)},
      {arch + ".block_count", GgufValue::u32(kLayers)},
      {arch + ".feed_forward_length", GgufValue::u32(kInner)},
      {arch + ".attention.head_count", GgufValue::u32(kHeads)},
      {arch + ".attention.head_count_kv", GgufValue::u32(kKvHeads)},
      {arch + ".attention.key_length", GgufValue::u32(kDim)},
      {arch + ".attention.value_length", GgufValue::u32(kDim)},
      {arch + ".attention.layer_norm_rms_epsilon", GgufValue::f32(1e-6f)},
      {arch + ".rope.freq_base", GgufValue::f32(10000.0f)}};
  if (window > 0) metadata.emplace_back(arch + ".attention.sliding_window", GgufValue::u32(uint32_t(window)));
  std::vector<formats::GgufTensor> tensors;
  std::vector<std::shared_ptr<std::vector<std::byte>>> keep;
  const auto add = [&](const std::string& name, int rows, int cols, tensor::Type t, float mean, float spread) {
    DrawKey key;
    key.purpose = Purpose::kInitialWeights;
    key.path = uint32_t(tensors.size());
    std::vector<float> values(size_t(rows) * size_t(cols));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = mean + spread * (uniform_open(draw_word(key, uint32_t(i))) - 0.5f);
    }
    auto bytes = std::make_shared<std::vector<std::byte>>(tensor::row_bytes(t, cols) * size_t(rows));
    tensor::quantise(t, values, *bytes);
    keep.push_back(bytes);
    formats::GgufTensor tensor;
    tensor.name = name;
    tensor.dims = rows == 1 ? std::vector<uint64_t>{uint64_t(cols)} : std::vector<uint64_t>{uint64_t(cols), uint64_t(rows)};
    tensor.type = t;
    tensor.data = *bytes;
    tensors.push_back(std::move(tensor));
  };
  const auto norm = [&](const std::string& name, int n) { add(name, 1, n, tensor::Type::kF32, 1.0f, 0.4f); };
  add("token_embd.weight", kVocab, kHidden, type, 0, 1.0f);
  norm("output_norm.weight", kHidden);
  for (int l = 0; l < kLayers; ++l) {
    const std::string b = "blk." + std::to_string(l) + ".";
    norm(b + "attn_norm.weight", kHidden);
    norm(b + "attn_q_norm.weight", kDim);
    norm(b + "attn_k_norm.weight", kDim);
    norm(b + "ffn_norm.weight", kHidden);
    if (window > 0) {
      norm(b + "post_attention_norm.weight", kHidden);
      norm(b + "post_ffw_norm.weight", kHidden);
    }
    add(b + "attn_q.weight", kHeads * kDim, kHidden, type, 0, 0.6f);
    add(b + "attn_k.weight", kKvHeads * kDim, kHidden, type, 0, 0.6f);
    add(b + "attn_v.weight", kKvHeads * kDim, kHidden, type, 0, 0.6f);
    add(b + "attn_output.weight", kHidden, kHeads * kDim, type, 0, 0.6f);
    add(b + "ffn_gate.weight", kInner, kHidden, type, 0, 0.6f);
    add(b + "ffn_up.weight", kInner, kHidden, type, 0, 0.6f);
    add(b + "ffn_down.weight", kHidden, kInner, type, 0, 0.6f);
  }
  const auto path = std::filesystem::temp_directory_path() /
                    ("tutti-tiny-" + std::to_string(::getpid()) + "-" + std::to_string(int(type)) + "-" +
                     std::to_string(window) + ".gguf");
  formats::write_gguf(path, metadata, tensors);
  TinyModel tiny;
  tiny.pool = std::make_shared<ComputePool>(threads);
  auto checkpoint = std::make_shared<models::Checkpoint>(models::Checkpoint::open(path));
  tiny.model = std::make_shared<models::Model>(checkpoint, arithmetic, *tiny.pool);
  std::filesystem::remove(path);  // the map keeps the bytes
  return tiny;
}

}  // namespace tutti::engine
