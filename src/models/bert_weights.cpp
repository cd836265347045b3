// From a table of named tensors to the weights of a BERT (weight_loader.h).
#include "models/weight_loader.h"

namespace tutti::models {

StoredWeights load_bert_weights(const Config& c, const TensorLayout& t, TensorTable& table) {
  const int64_t width = int64_t(c.heads) * c.head_dim;
  const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
    return Linear<StoredTensor, StoredTensor>{table.take(name + ".weight", {out, in}),
                                              table.take(name + ".bias", {out})};
  };
  StoredWeights w;
  w.embedding = table.take(t.embedding, {c.vocab, c.hidden});
  w.positions = table.take(t.positions, {c.context_length, c.hidden});
  w.types = table.take(t.types, {c.token_types, c.hidden});
  w.embedding_norm = table.take(t.embedding_norm + ".weight", {c.hidden});
  w.embedding_norm_bias = table.take(t.embedding_norm + ".bias", {c.hidden});
  for (int i = 0; i < c.layers; ++i) {
    const std::string at = t.layer_prefix + std::to_string(i) + ".";
    auto& l = w.layers.emplace_back();
    l.q = linear(at + t.q, width, c.hidden);
    l.k = linear(at + t.k, width, c.hidden);
    l.v = linear(at + t.v, width, c.hidden);
    l.o = linear(at + t.o, c.hidden, width);
    l.attn_norm = table.take(at + t.attn_norm + ".weight", {c.hidden});
    l.attn_norm_bias = table.take(at + t.attn_norm + ".bias", {c.hidden});
    l.up = linear(at + t.up, c.intermediate, c.hidden);
    l.down = linear(at + t.down, c.hidden, c.intermediate);
    l.ffn_norm = table.take(at + t.ffn_norm + ".weight", {c.hidden});
    l.ffn_norm_bias = table.take(at + t.ffn_norm + ".bias", {c.hidden});
  }
  return w;
}

}  // namespace tutti::models
