// For tests: small random BERTs, written as Hugging Face folders and loaded like any other.
#pragma once

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "models/checkpoint.h"
#include "models/crafted_folder.h"

namespace tutti::models {

struct BertShape {
  int layers = 2, hidden = 48, heads = 3, inner = 80, vocab = 40, context = 128, types = 2;
  int labels = 0;  // > 0: BertForSequenceClassification
  uint32_t seed = 19;
};

class BertFolder : public CraftedFolder {
 public:
  explicit BertFolder(const BertShape& s) : CraftedFolder("bert", s.seed) {
    const bool judges = s.labels > 0;
    const nlohmann::json config{
        {"architectures", {judges ? "BertForSequenceClassification" : "BertModel"}},
        {"model_type", "bert"},
        {"vocab_size", s.vocab},
        {"hidden_size", s.hidden},
        {"num_hidden_layers", s.layers},
        {"num_attention_heads", s.heads},
        {"intermediate_size", s.inner},
        {"hidden_act", "gelu"},
        {"layer_norm_eps", 1e-12},
        {"max_position_embeddings", s.context},
        {"type_vocab_size", s.types}};
    const auto u = [](int n) { return uint64_t(n); };
    const float wide = 1.7f / std::sqrt(float(s.hidden));
    const auto linear = [&](const std::string& name, int out, int in) {
      add(name + ".weight", {u(out), u(in)}, 0, wide);
      add(name + ".bias", {u(out)}, 0, 0.2f);
    };
    const auto norm = [&](const std::string& name) {
      add(name + ".weight", {u(s.hidden)}, 1, 0.3f);
      add(name + ".bias", {u(s.hidden)}, 0, 0.3f);
    };
    const std::string body = judges ? "bert." : "";
    add(body + "embeddings.word_embeddings.weight", {u(s.vocab), u(s.hidden)}, 0, 0.5f);
    add(body + "embeddings.position_embeddings.weight", {u(s.context), u(s.hidden)}, 0, 0.5f);
    add(body + "embeddings.token_type_embeddings.weight", {u(s.types), u(s.hidden)}, 0, 0.5f);
    norm(body + "embeddings.LayerNorm");
    for (int l = 0; l < s.layers; ++l) {
      const std::string at = body + "encoder.layer." + std::to_string(l) + ".";
      for (const char* name : {"query", "key", "value"})
        linear(at + "attention.self." + name, s.hidden, s.hidden);
      linear(at + "attention.output.dense", s.hidden, s.hidden);
      norm(at + "attention.output.LayerNorm");
      linear(at + "intermediate.dense", s.inner, s.hidden);
      linear(at + "output.dense", s.hidden, s.inner);
      norm(at + "output.LayerNorm");
    }
    linear(body + "pooler.dense", s.hidden, s.hidden);
    if (judges) linear("classifier", s.labels, s.hidden);
    write(config);
  }
};

inline std::shared_ptr<const Checkpoint> bert_checkpoint(const BertShape& shape = {}) {
  const BertFolder folder(shape);  // the map stays readable
  return std::make_shared<Checkpoint>(Checkpoint::open(folder.path()));
}

}  // namespace tutti::models
