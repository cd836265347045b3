// For tests: small random XLNets, written as Hugging Face folders and loaded like any other.
#pragma once

#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include "base/files.h"
#include "formats/safetensors.h"
#include "models/checkpoint.h"

namespace tutti::models {

struct XlnetShape {
  int layers = 2, hidden = 48, heads = 3, head_dim = 16, inner = 80, vocab = 40, context = 128;
  int clamp = -1;       // clamp_len
  float spread = 1.0f;  // of the matrices: how strongly the parts of the network matter
  uint32_t seed = 17;
};

// A folder of that shape below the temporary directory, removed when this goes.
class XlnetFolder {
 public:
  explicit XlnetFolder(const XlnetShape& s) : random_(s.seed) {
    static std::atomic<int> made{0};
    path_ = std::filesystem::temp_directory_path() /
            ("tutti_xlnet_" + std::to_string(getpid()) + "_" + std::to_string(made++));
    std::filesystem::create_directories(path_);
    const nlohmann::json config{{"architectures", {"XLNetLMHeadModel"}},
                                {"model_type", "xlnet"},
                                {"vocab_size", s.vocab},
                                {"d_model", s.hidden},
                                {"n_layer", s.layers},
                                {"n_head", s.heads},
                                {"d_head", s.head_dim},
                                {"d_inner", s.inner},
                                {"ff_activation", "gelu"},
                                {"untie_r", true},
                                {"attn_type", "bi"},
                                {"bi_data", false},
                                {"clamp_len", s.clamp},
                                {"same_length", false},
                                {"layer_norm_eps", 1e-12},
                                {"max_position_embeddings", s.context},
                                {"mask_token_id", s.vocab > 6 ? 6 : s.vocab - 1}};
    write_file_atomically(path_ / "config.json", config.dump());
    const auto u = [](int n) { return uint64_t(n); };
    const float wide = 1.7f * s.spread / std::sqrt(float(s.hidden));
    add("transformer.word_embedding.weight", {u(s.vocab), u(s.hidden)}, 0, 0.5f);
    add("transformer.mask_emb", {1, 1, u(s.hidden)}, 0, 0.5f);
    add("lm_loss.bias", {u(s.vocab)}, 0, 0.5f);
    for (int l = 0; l < s.layers; ++l) {
      const std::string at = "transformer.layer." + std::to_string(l) + ".";
      for (const char* name : {"q", "k", "v", "o", "r"}) {
        add(at + "rel_attn." + name, {u(s.hidden), u(s.heads), u(s.head_dim)}, 0, wide);
      }
      for (const char* name : {"r_w_bias", "r_r_bias", "r_s_bias"}) {
        add(at + "rel_attn." + name, {u(s.heads), u(s.head_dim)}, 0, 0.5f);
      }
      add(at + "rel_attn.seg_embed", {2, u(s.heads), u(s.head_dim)}, 0, 1.0f);
      for (const char* name : {"rel_attn.layer_norm", "ff.layer_norm"}) {
        add(at + name + ".weight", {u(s.hidden)}, 1, 0.3f);
        add(at + name + ".bias", {u(s.hidden)}, 0, 0.3f);
      }
      add(at + "ff.layer_1.weight", {u(s.inner), u(s.hidden)}, 0, wide);
      add(at + "ff.layer_1.bias", {u(s.inner)}, 0, 0.2f);
      add(at + "ff.layer_2.weight", {u(s.hidden), u(s.inner)}, 0, wide);
      add(at + "ff.layer_2.bias", {u(s.hidden)}, 0, 0.2f);
    }
    std::vector<formats::SafetensorsTensor> list;
    for (const auto& t : tensors_) {
      list.push_back({t.name, formats::Dtype::kF32, t.shape, std::as_bytes(std::span(t.values))});
    }
    formats::write_safetensors(path_ / "model.safetensors", list);
  }
  XlnetFolder(const XlnetFolder&) = delete;
  ~XlnetFolder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }

 private:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values;
  };
  void add(std::string name, std::vector<uint64_t> shape, float mean, float spread) {
    uint64_t n = 1;
    for (const uint64_t d : shape) n *= d;
    std::vector<float> values(n);
    std::uniform_real_distribution<float> draw(-1, 1);
    for (float& v : values) v = mean + spread * draw(random_);
    tensors_.push_back({std::move(name), std::move(shape), std::move(values)});
  }

  std::filesystem::path path_;
  std::vector<Tensor> tensors_;
  std::mt19937 random_;
};

inline std::shared_ptr<const Checkpoint> xlnet_checkpoint(const XlnetShape& shape = {}) {
  const XlnetFolder folder(shape);  // the map stays readable
  return std::make_shared<Checkpoint>(Checkpoint::open(folder.path()));
}

}  // namespace tutti::models
