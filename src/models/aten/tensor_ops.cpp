#include "models/aten/tensor_ops.h"

#include <ATen/ATen.h>

#include <cmath>

#include "models/transformer.h"

namespace tutti::models {
namespace {

at::Tensor index_tensor(const std::vector<int64_t>& ids) { return at::tensor(ids, at::kLong); }

at::Tensor linear(const at::Tensor& x, const Linear<at::Tensor, at::Tensor>& l) {
  at::Tensor y = x.matmul(l.weight.t());
  return l.bias.defined() ? y + l.bias : y;
}

}  // namespace

TensorWeights tensor_weights(const Checkpoint& checkpoint, at::ScalarType dtype) {
  const auto matrix = [&](const StoredTensor& t) {
    if (t.empty()) return at::Tensor();
    const std::vector<float> values = t.floats();
    return at::tensor(values).view({t.rows, t.cols}).to(dtype);
  };
  const auto vector = [&](const StoredTensor& t) {
    if (t.empty()) return at::Tensor();
    return at::tensor(t.floats()).to(dtype);
  };
  return convert_weights<TensorWeights>(checkpoint.weights(), matrix, vector);
}

TensorKv::TensorKv(const Config& config, int pages, at::ScalarType dtype) {
  for (int l = 0; l < config.layers; ++l) {
    k.push_back(at::zeros({pages * tensor::kPageSlots, config.kv_heads, config.head_dim}, dtype));
    v.push_back(at::zeros_like(k.back()));
  }
}

TensorOps::TensorOps(const Config& config, const Batch& batch, TensorKv& kv, const TensorInputs& inputs)
    : config_(config), batch_(batch), kv_(kv), inputs_(inputs) {
  answer_.hidden.resize(batch.hidden.size());
}

at::Tensor TensorOps::active_rows(const at::Tensor& h) const { return h.index_select(0, active_); }

at::Tensor TensorOps::norm(const at::Tensor& x, const at::Tensor& weight) const {
  return x * (x.pow(2).mean(-1, true) + double(config_.norm_eps)).rsqrt() * weight;
}

at::Tensor TensorOps::activate(const at::Tensor& x) const {
  switch (config_.activation) {
    case tensor::Activation::kSilu: return at::silu(x);
    case tensor::Activation::kGeluTanh: return at::gelu(x, "tanh");
    case tensor::Activation::kGelu: return at::gelu(x);
    case tensor::Activation::kRelu: return at::relu(x);
  }
  return x;
}

void TensorOps::add_rows(at::Tensor& h, const at::Tensor& delta) const {
  h = h.index_add(0, active_, delta);
}

at::Tensor TensorOps::embed(const at::Tensor& embedding, float scale) {
  std::vector<at::Tensor> rows;
  for (size_t r = 0; r < batch_.inputs.size(); ++r) {
    const RowInput& in = batch_.inputs[r];
    const at::Tensor given = r < inputs_.rows.size() ? inputs_.rows[r] : at::Tensor();
    switch (in.kind) {
      case RowInput::kToken:
        rows.push_back(embedding[in.token] * double(scale));
        break;
      case RowInput::kVector:
        rows.push_back(given.defined() ? given : at::tensor(in.vector).to(embedding.dtype()));
        break;
      case RowInput::kMix: {
        const std::vector<int64_t> ids(in.ids.begin(), in.ids.end());
        const at::Tensor weights = given.defined() ? given : at::tensor(in.weights).to(embedding.dtype());
        rows.push_back(weights.matmul(embedding.index_select(0, index_tensor(ids)) * double(scale)));
        break;
      }
      case RowInput::kFromRow:
        rows.push_back(at::zeros({config_.hidden}, embedding.options()));
        break;
    }
  }
  return at::stack(rows);
}

void TensorOps::enter(at::Tensor& h, int layer) {
  for (const auto& epoch : batch_.epochs) {
    if (epoch.first_layer <= layer && layer < epoch.last_layer) epoch_ = &epoch;
  }
  active_ = index_tensor(std::vector<int64_t>(epoch_->rows.begin(), epoch_->rows.end()));
  for (int r = 0; r < batch_.rows(); ++r) {
    const RowInput& in = batch_.inputs[size_t(r)];
    if (in.kind != RowInput::kFromRow || batch_.active[size_t(r)].enter != layer) continue;
    at::Tensor x = h[in.row];
    if (const auto given = inputs_.maps.find(in.map.get()); in.map && given != inputs_.maps.end()) {
      x = linear(x, given->second);
    } else if (in.map) {
      x = at::tensor(in.map->weight).view({in.map->width, in.map->width}).to(h.dtype()).matmul(x);
      if (!in.map->bias.empty()) x = x + at::tensor(in.map->bias).to(h.dtype());
    }
    h = h.index_copy(0, index_tensor({r}), x.unsqueeze(0));
  }
  for (size_t i = 0; i < batch_.hidden.size(); ++i) {
    if (batch_.hidden[i].layer == layer) answer_.hidden[i] = h[batch_.hidden[i].row];
  }
}

TensorOps::Qkv TensorOps::norm_qkv(const at::Tensor& h, const at::Tensor& norm_weight,
                                   const Linear<at::Tensor, at::Tensor>& q,
                                   const Linear<at::Tensor, at::Tensor>& k,
                                   const Linear<at::Tensor, at::Tensor>& v) {
  const at::Tensor x = norm(active_rows(h), norm_weight);
  const int64_t rows = x.size(0), d = config_.head_dim;
  return {linear(x, q).view({rows, config_.heads, d}), linear(x, k).view({rows, config_.kv_heads, d}),
          linear(x, v).view({rows, config_.kv_heads, d})};
}

at::Tensor TensorOps::rotate(const at::Tensor& x, const Rope& rope) const {
  const int64_t pairs = int64_t(rope.inverse_frequency.size());
  std::vector<float> angles;  // in fp32, as the published implementations compute them
  for (const int row : epoch_->rows) {
    const Position& p = batch_.positions[size_t(row)];
    for (int64_t i = 0; i < pairs; ++i) {
      const int axis = rope.axis.empty() ? 0 : rope.axis[size_t(i)];
      angles.push_back(float(axis == 0 ? p.t : axis == 1 ? p.h : p.w) * rope.inverse_frequency[size_t(i)]);
    }
  }
  const at::Tensor angle = at::tensor(angles).view({x.size(0), 1, pairs}).to(at::kDouble);
  const at::Tensor cos = (angle.cos() * double(rope.magnitude)).to(x.dtype());
  const at::Tensor sin = (angle.sin() * double(rope.magnitude)).to(x.dtype());
  const at::Tensor a = x.narrow(-1, 0, pairs), b = x.narrow(-1, pairs, pairs);
  const at::Tensor rest = x.narrow(-1, 2 * pairs, x.size(-1) - 2 * pairs);
  return at::cat({a * cos - b * sin, b * cos + a * sin, rest}, -1);
}

void TensorOps::rope_store(int layer, Qkv& qkv, const at::Tensor& q_norm, const at::Tensor& k_norm,
                           const at::Tensor& segments) {
  if (q_norm.defined()) qkv.q = norm(qkv.q, q_norm);
  if (k_norm.defined()) qkv.k = norm(qkv.k, k_norm);
  if (segments.defined()) {
    // Ids past the table have no vector.
    at::Tensor table = segments.view({-1, config_.head_dim});
    const int64_t known = table.size(0);
    table = at::cat({table, at::zeros({1, config_.head_dim}, table.options())});
    std::vector<int64_t> ids;
    for (const int row : epoch_->rows) {
      const int64_t id = batch_.segments[size_t(row)];
      ids.push_back(id >= 0 && id < known ? id : known);
    }
    const at::Tensor s = table.index_select(0, index_tensor(ids)).unsqueeze(1);
    qkv.k = qkv.k + s;
    qkv.v = qkv.v + s;
  }
  qkv.q = rotate(qkv.q, config_.rope_of(layer));
  qkv.k = rotate(qkv.k, config_.rope_of(layer));
  const at::Tensor zero =
      at::zeros({batch_.rows(), config_.kv_heads, config_.head_dim}, qkv.k.options());
  fresh_k_ = zero.index_add(0, active_, qkv.k);
  fresh_v_ = zero.index_add(0, active_, qkv.v);
}

at::Tensor TensorOps::attend(int layer, const Qkv& qkv) {
  const int64_t rows = qkv.q.size(0), heads = config_.heads, d = config_.head_dim;
  const int64_t old_slots = kv_.k[size_t(layer)].size(0);
  std::vector<int64_t> row_of_slot(size_t(old_slots), -1);
  for (int r = 0; r < batch_.rows(); ++r) {
    const auto slot = batch_.slots[size_t(r)];
    row_of_slot[size_t(slot.page) * tensor::kPageSlots + size_t(slot.slot)] = r;
  }
  // All keys: earlier slots, then this forward's rows. Per softmax class, a matrix says how often who sees what: a
  // key that a View names twice weighs twice.
  const at::Tensor keys = at::cat({kv_.k[size_t(layer)], fresh_k_}).repeat_interleave(heads / config_.kv_heads, 1);
  const at::Tensor values =
      at::cat({kv_.v[size_t(layer)], fresh_v_}).repeat_interleave(heads / config_.kv_heads, 1);
  const int64_t total = keys.size(0);
  const auto& spans = config_.is_sliding(layer) ? epoch_->sliding : epoch_->full;
  const at::Tensor counts = at::zeros({tensor::kMaxSoftmaxClasses, rows, total}, at::kDouble);
  auto count = counts.accessor<double, 3>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int j = 0; j < spans[size_t(i)].count; ++j) {
      const tensor::KvRun& run = batch_.runs[size_t(spans[size_t(i)].first + j)];
      for (int s = run.first; s < run.first + run.count; ++s) {
        const int64_t slot = int64_t(run.page) * tensor::kPageSlots + s;
        const int64_t fresh = row_of_slot[size_t(slot)];
        count[run.softmax_class][i][fresh >= 0 ? old_slots + fresh : slot] += 1;
      }
    }
  }
  at::Tensor scores = at::einsum("rhd,khd->rhk", {qkv.q, keys}) * double(config_.attention_scale);
  if (config_.attention_cap > 0) {
    scores = at::tanh(scores / double(config_.attention_cap)) * double(config_.attention_cap);
  }
  std::vector<at::Tensor> outs, exponents;
  for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
    if (!counts[c].any().item<bool>()) continue;
    std::vector<float> inverse_temperature, lse_scale;
    for (int64_t i = 0; i < rows; ++i) {
      tensor::SoftmaxClass softmax = batch_.classes[c];
      if (!batch_.row_classes.empty()) {
        const auto& classes = batch_.row_classes[size_t(epoch_->rows[size_t(i)])];
        softmax = size_t(c) < classes.size() ? classes[size_t(c)] : tensor::SoftmaxClass{};
      }
      inverse_temperature.push_back(softmax.inverse_temperature);
      lse_scale.push_back(softmax.lse_scale);
    }
    const at::Tensor hidden = (counts[c] == 0).unsqueeze(1);
    const at::Tensor s = (scores * at::tensor(inverse_temperature).to(scores.dtype()).view({rows, 1, 1}) +
                          counts[c].clamp_min(1).log().to(scores.dtype()).unsqueeze(1))
                             .masked_fill(hidden, -INFINITY);
    const at::Tensor lse = s.logsumexp(-1);  // [rows, heads], -inf without keys
    const at::Tensor p = s.softmax(-1).masked_fill(hidden, 0.0);
    outs.push_back(at::einsum("rhk,khd->rhd", {p, values}));
    exponents.push_back(lse * at::tensor(lse_scale).to(lse.dtype()).view({rows, 1}));
  }
  // What later forwards read. The graph keeps the fresh rows themselves.
  std::vector<int64_t> written;
  for (const int row : epoch_->rows) {
    const auto slot = batch_.slots[size_t(row)];
    written.push_back(int64_t(slot.page) * tensor::kPageSlots + slot.slot);
  }
  kv_.k[size_t(layer)].index_copy_(0, index_tensor(written), qkv.k.detach());
  kv_.v[size_t(layer)].index_copy_(0, index_tensor(written), qkv.v.detach());
  if (outs.empty()) return at::zeros({rows, heads * d}, qkv.q.options());
  const at::Tensor exponent = at::stack(exponents);  // [classes, rows, heads]
  const at::Tensor none = (exponent == -INFINITY).all(0, true);
  const at::Tensor share = exponent.softmax(0).masked_fill(none, 0.0);
  return (at::stack(outs) * share.unsqueeze(-1)).sum(0).reshape({rows, heads * d});
}

void TensorOps::linear_residual(at::Tensor& h, const at::Tensor& in,
                                const Linear<at::Tensor, at::Tensor>& l, const at::Tensor& post_norm) {
  at::Tensor y = linear(in, l);
  if (post_norm.defined()) y = norm(y, post_norm);
  add_rows(h, y);
}

at::Tensor TensorOps::norm_gated(const at::Tensor& h, const at::Tensor& norm_weight,
                                 const Linear<at::Tensor, at::Tensor>& gate,
                                 const Linear<at::Tensor, at::Tensor>& up) {
  const at::Tensor x = norm(active_rows(h), norm_weight);
  return activate(linear(x, gate)) * linear(x, up);
}

void TensorOps::experts_residual(at::Tensor& h, const LayerWeights<at::Tensor, at::Tensor>& layer) {
  const Experts& e = config_.experts;
  const at::Tensor x = norm(active_rows(h), layer.ffn_norm);
  const at::Tensor probabilities = x.matmul(layer.router.t()).softmax(-1);
  // A stable descending sort keeps the lower index first on ties.
  const auto sorted = probabilities.sort(/*stable=*/true, -1, /*descending=*/true);
  at::Tensor weights = std::get<0>(sorted).narrow(-1, 0, e.used);
  const at::Tensor chosen = std::get<1>(sorted).narrow(-1, 0, e.used).contiguous();
  if (e.normalise) weights = weights / weights.sum(-1, true);
  weights = weights * double(e.scale);
  const auto expert = [&](const at::Tensor& in, const at::Tensor& gate, const at::Tensor& up,
                          const at::Tensor& down) {
    return (activate(in.matmul(gate.t())) * in.matmul(up.t())).matmul(down.t());
  };
  if (x.size(0) == 0) return;
  std::vector<at::Tensor> rows;
  const auto ids = chosen.accessor<int64_t, 2>();
  for (int64_t i = 0; i < x.size(0); ++i) {
    at::Tensor sum = at::zeros({config_.hidden}, x.options());
    for (int64_t j = 0; j < e.used; ++j) {
      const size_t id = size_t(ids[i][j]);
      sum = sum + weights[i][j] * expert(x[i], layer.expert_gate[id], layer.expert_up[id],
                                         layer.expert_down[id]);
    }
    rows.push_back(sum);
  }
  at::Tensor y = at::stack(rows);
  if (layer.shared_gate.defined()) {
    at::Tensor shared = expert(x, layer.shared_gate, layer.shared_up, layer.shared_down);
    if (layer.shared_router.defined()) shared = shared * x.matmul(layer.shared_router.t()).sigmoid();
    y = y + shared;
  }
  if (layer.post_ffn_norm.defined()) y = norm(y, layer.post_ffn_norm);
  add_rows(h, y);
}

void TensorOps::head(const at::Tensor& h, const at::Tensor& norm_weight, const at::Tensor& head) {
  if (batch_.head_rows.empty()) return;
  const std::vector<int64_t> rows(batch_.head_rows.begin(), batch_.head_rows.end());
  answer_.logits = norm(h.index_select(0, index_tensor(rows)), norm_weight).matmul(head.t());
  if (config_.logit_cap > 0) {
    answer_.logits = at::tanh(answer_.logits / double(config_.logit_cap)) * double(config_.logit_cap);
  }
}

TensorAnswer tensor_forward(const Config& config, const TensorWeights& weights, const Batch& batch,
                            TensorKv& kv, const TensorInputs& inputs) {
  TensorOps ops(config, batch, kv, inputs);
  forward(ops, config, weights);
  return std::move(ops.answer());
}

}  // namespace tutti::models
