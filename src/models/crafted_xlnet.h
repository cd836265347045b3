// For tests: small random XLNets, written as Hugging Face folders and loaded like any other.
#pragma once

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/checkpoint.h"
#include "models/crafted_folder.h"

namespace tutti::models {

struct XlnetShape {
  int layers = 2, hidden = 48, heads = 3, head_dim = 16, inner = 80, vocab = 40, context = 128;
  int clamp = -1;       // clamp_len
  float spread = 1.0f;  // of the matrices: how strongly the parts of the network matter
  uint32_t seed = 17;
};

class XlnetFolder : public CraftedFolder {
 public:
  explicit XlnetFolder(const XlnetShape& s) : CraftedFolder("xlnet", s.seed) {
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
    write(config);
  }
};

inline std::shared_ptr<const Checkpoint> xlnet_checkpoint(const XlnetShape& shape = {}) {
  const XlnetFolder folder(shape);  // the map stays readable
  return std::make_shared<Checkpoint>(Checkpoint::open(folder.path()));
}

}  // namespace tutti::models
