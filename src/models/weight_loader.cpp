#include "models/weight_loader.h"

#include <cstring>

#include "base/error.h"

namespace tutti::models {
namespace {

std::span<std::byte> allocate(size_t bytes, OwnedBytes& owned) {
  owned.push_back(std::make_shared<std::vector<std::byte>>(bytes));
  return *owned.back();
}

StoredTensor own_floats(const StoredTensor& like, std::span<const float> values,
                        OwnedBytes& owned) {
  const auto bytes = allocate(values.size_bytes(), owned);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  StoredTensor out = like;
  out.type = tensor::Type::kF32;
  out.data = bytes;
  return out;
}

class Loader {
 public:
  Loader(const Config& config, const TensorLayout& layout, TensorTable& table, OwnedBytes& owned)
      : c_(config), t_(layout), table_(table), owned_(owned) {}

  StoredWeights load() {
    StoredWeights w;
    w.embedding = c_.embedding_width > 0
                      ? table_.take(t_.embedding, {c_.hidden, c_.embedding_width})
                      : table_.take(t_.embedding, {c_.vocab, c_.hidden});
    w.output_norm = norm(t_.output_norm, c_.hidden);
    if (!c_.tied_head) w.head = table_.take(t_.head, {c_.head_rows(), c_.hidden});
    for (int l = 0; l < c_.layers; ++l) w.layers.push_back(load_layer(l));
    return w;
  }

 private:
  using Layer = LayerWeights<StoredTensor, StoredTensor>;
  using StoredLinear = Linear<StoredTensor, StoredTensor>;

  StoredTensor norm(const std::string& name, int width) {
    StoredTensor w = table_.take(name, {width});
    if (!t_.norm_plus_one) return w;
    std::vector<float> values = w.floats();
    for (float& x : values) x += 1.0f;
    return own_floats(w, values, owned_);
  }

  StoredLinear linear(const std::string& name, int64_t out, int64_t in, Presence bias) {
    StoredLinear l;
    l.weight = table_.take(name + ".weight", {out, in});
    if (bias == Presence::kRequired) l.bias = table_.take(name + ".bias", {out});
    if (bias == Presence::kOptional) l.bias = table_.take_if(name + ".bias", {out});
    return l;
  }

  // The outputs [first, first + count).
  StoredLinear rows_of(const StoredLinear& all, int64_t first, int64_t count) {
    StoredLinear part;
    part.weight = all.weight.slice(int(first), int(count));
    if (all.bias.empty()) return part;
    const std::vector<float> bias = all.bias.floats();
    part.bias = own_floats(all.bias, std::span(bias).subspan(size_t(first), size_t(count)), owned_);
    part.bias.cols = int(count);
    return part;
  }

  void split_halves(StoredLinear& l, int heads) {
    if (!t_.interleaved) return;
    const int pairs = int(c_.rope.inverse_frequency.size());
    l.weight = half_split(l.weight, heads, pairs, owned_);
    if (!l.bias.empty()) l.bias = half_split(l.bias, heads, pairs, owned_);
  }

  Layer load_layer(int index) {
    const std::string at = t_.layer_prefix + std::to_string(index) + ".";
    const int64_t query = int64_t(c_.heads) * c_.head_dim, key = int64_t(c_.kv_heads) * c_.head_dim;
    Layer l;
    l.attn_norm = norm(at + t_.attn_norm + ".weight", c_.hidden);
    if (t_.qkv.empty()) {
      l.q = linear(at + t_.q, query, c_.hidden, t_.qkv_bias);
      l.k = linear(at + t_.k, key, c_.hidden, t_.qkv_bias);
      l.v = linear(at + t_.v, key, c_.hidden, t_.qkv_bias);
    } else {
      const StoredLinear all = linear(at + t_.qkv, query + 2 * key, c_.hidden, t_.qkv_bias);
      l.q = rows_of(all, 0, query);
      l.k = rows_of(all, query, key);
      l.v = rows_of(all, query + key, key);
    }
    l.o = linear(at + t_.o, c_.hidden, query, t_.o_bias);
    split_halves(l.q, c_.heads);
    split_halves(l.k, c_.kv_heads);
    if (t_.qk_norm) {
      l.q_norm = norm(at + t_.q_norm + ".weight", c_.head_dim);
      l.k_norm = norm(at + t_.k_norm + ".weight", c_.head_dim);
    }
    l.ffn_norm = norm(at + t_.ffn_norm + ".weight", c_.hidden);
    if (t_.post_norms) {
      l.post_attn_norm = norm(at + t_.post_attn_norm + ".weight", c_.hidden);
      l.post_ffn_norm = norm(at + t_.post_ffn_norm + ".weight", c_.hidden);
    }
    if (c_.is_sparse(index)) {
      load_experts(at, l);
    } else {
      l.gate = linear(at + t_.gate, c_.intermediate, c_.hidden, t_.mlp_bias);
      l.up = linear(at + t_.up, c_.intermediate, c_.hidden, t_.mlp_bias);
      l.down = linear(at + t_.down, c_.hidden, c_.intermediate, t_.mlp_bias);
    }
    return l;
  }

  void load_experts(const std::string& at, Layer& l) {
    const Experts& e = c_.experts;
    l.router = table_.take(at + t_.router + ".weight", {e.count, c_.hidden});
    if (t_.router_biases == Presence::kRequired)
      l.router_bias = table_.take(at + t_.router_bias, {e.count});
    if (t_.router_biases == Presence::kOptional)
      l.router_bias = table_.take_if(at + t_.router_bias, {e.count});
    if (!t_.stacked_gate_up.empty() && table_.has(at + t_.stacked_gate_up)) {
      const StoredTensor both =
          table_.take(at + t_.stacked_gate_up, {e.count, int64_t(2) * e.intermediate, c_.hidden});
      for (int i = 0; i < e.count; ++i) {
        l.expert_gate.push_back(both.slice(2 * i * e.intermediate, e.intermediate));
        l.expert_up.push_back(both.slice((2 * i + 1) * e.intermediate, e.intermediate));
      }
      l.expert_down = cut(at + t_.stacked_down, c_.hidden, e.intermediate);
    } else if (!t_.expert_prefix.empty()) {
      for (int i = 0; i < e.count; ++i) {
        const std::string one = at + t_.expert_prefix + std::to_string(i) + ".";
        l.expert_gate.push_back(
            table_.take(one + t_.expert_gate + ".weight", {e.intermediate, c_.hidden}));
        l.expert_up.push_back(
            table_.take(one + t_.expert_up + ".weight", {e.intermediate, c_.hidden}));
        l.expert_down.push_back(
            table_.take(one + t_.expert_down + ".weight", {c_.hidden, e.intermediate}));
      }
    } else {
      l.expert_gate = cut(at + t_.stacked_gate, e.intermediate, c_.hidden);
      l.expert_up = cut(at + t_.stacked_up, e.intermediate, c_.hidden);
      l.expert_down = cut(at + t_.stacked_down, c_.hidden, e.intermediate);
    }
    if (e.shared_intermediate == 0) return;
    l.shared_gate =
        table_.take(at + t_.shared_gate + ".weight", {e.shared_intermediate, c_.hidden});
    l.shared_up = table_.take(at + t_.shared_up + ".weight", {e.shared_intermediate, c_.hidden});
    l.shared_down =
        table_.take(at + t_.shared_down + ".weight", {c_.hidden, e.shared_intermediate});
    if (!t_.shared_router.empty())
      l.shared_router = table_.take(at + t_.shared_router + ".weight", {1, c_.hidden});
  }

  // A stack of experts as one matrix each, in the stack's own memory.
  std::vector<StoredTensor> cut(const std::string& name, int out, int in) {
    const StoredTensor stack = table_.take(name, {c_.experts.count, out, in});
    std::vector<StoredTensor> experts;
    for (int i = 0; i < c_.experts.count; ++i) experts.push_back(stack.slice(i * out, out));
    return experts;
  }

  const Config& c_;
  const TensorLayout& t_;
  TensorTable& table_;
  OwnedBytes& owned_;
};

}  // namespace

StoredWeights load_weights(const Config& config, const TensorLayout& layout, TensorTable& table,
                           OwnedBytes& owned) {
  if (config.is_encoder()) return load_bert_weights(config, layout, table);
  if (config.relative) return load_xlnet_weights(config, layout, table, owned);
  return Loader(config, layout, table, owned).load();
}

StoredTensor half_split(const StoredTensor& tensor, int heads, int pairs, OwnedBytes& owned) {
  const bool bias = tensor.rows == 1;
  if (bias && tensor::info(tensor.type).quantised) {
    return half_split(own_floats(tensor, tensor.floats(), owned), heads, pairs, owned);
  }
  const int rows = bias ? tensor.cols : tensor.rows;
  const size_t row =
      bias ? tensor::row_bytes(tensor.type, 1) : tensor::row_bytes(tensor.type, tensor.cols);
  const int head_dim = rows / heads;
  const auto bytes = allocate(tensor.data.size(), owned);
  const auto move = [&](int to, int from) {
    std::memcpy(bytes.data() + size_t(to) * row, tensor.data.data() + size_t(from) * row, row);
  };
  for (int first = 0; first < rows; first += head_dim) {
    for (int i = 0; i < pairs; ++i) {
      move(first + i, first + 2 * i);
      move(first + pairs + i, first + 2 * i + 1);
    }
    for (int d = 2 * pairs; d < head_dim; ++d) move(first + d, first + d);
  }
  StoredTensor out = tensor;
  out.data = bytes;
  return out;
}

}  // namespace tutti::models
