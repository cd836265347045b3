#include "models/aten/tensor_ops.h"

#include <ATen/ATen.h>

#include <cmath>

#include "models/transformer.h"
#include "models/xlnet.h"

namespace tutti::models {
namespace {

struct ExpertChoice {
  at::Tensor ids, weights;
};
// The ids and weights [rows, used] for the router's products [rows, count].
ExpertChoice choose_experts(const Experts& e, const at::Tensor& products, const at::Tensor& bias) {
  // A stable descending sort keeps the lower index first on ties.
  const auto largest = [](const at::Tensor& t, int64_t n) {
    return std::get<1>(t.sort(/*stable=*/true, -1, /*descending=*/true))
        .narrow(-1, 0, n)
        .contiguous();
  };
  const at::Tensor scores =
      e.score == Experts::Score::kSoftmax ? products.softmax(-1) : products.sigmoid();
  at::Tensor by = bias.defined() ? scores + bias : scores;
  const at::Tensor weigh = e.bias_weighs ? by : scores;
  if (e.used_groups < e.groups) {
    const at::Tensor grouped = by.view({by.size(0), e.groups, e.count / e.groups});
    const at::Tensor sums = std::get<0>(grouped.topk(2, -1)).sum(-1);
    const at::Tensor shut = at::ones_like(sums).scatter(-1, largest(sums, e.used_groups), 0.0);
    by = grouped.masked_fill(shut.unsqueeze(-1).to(at::kBool), -INFINITY).view(by.sizes());
  }
  const at::Tensor ids = largest(by, e.used);
  at::Tensor weights = weigh.gather(-1, ids);
  if (e.normalise) weights = weights / (weights.sum(-1, true) + 1e-20);
  return {ids, weights * double(e.scale)};
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

TensorKv::TensorKv(const Config& config, int pages, at::ScalarType dtype, at::Device device) {
  for (int l = 0; l < config.layers; ++l) {
    k.push_back(at::zeros({pages * tensor::kPageSlots, config.kv_heads, config.head_dim},
                          at::TensorOptions(dtype).device(device)));
    v.push_back(at::zeros_like(k.back()));
  }
}

TensorOps::TensorOps(const Config& config, const Batch& batch, TensorKv& kv,
                     const TensorInputs& inputs)
    : config_(config), batch_(batch), kv_(kv), inputs_(inputs) {
  answer_.hidden.resize(batch.hidden.size());
}

at::Tensor TensorOps::index_tensor(const std::vector<int64_t>& ids) const {
  return at::tensor(ids, at::kLong).to(device_);
}

at::Tensor TensorOps::linear(const at::Tensor& x, const Linear<at::Tensor, at::Tensor>& l) const {
  at::Tensor y = x.matmul(l.weight.t());
  if (const auto beside = inputs_.low_rank.find(l.weight.unsafeGetTensorImpl());
      beside != inputs_.low_rank.end()) {
    const auto& [a, b, scale] = beside->second;
    y = y + (x.matmul(a.t()) * scale).matmul(b.t());
  }
  return l.bias.defined() ? y + l.bias : y;
}

at::Tensor TensorOps::active_rows(const at::Tensor& h) const {
  return active_.defined() ? h.index_select(0, active_) : h;
}

at::Tensor TensorOps::norm(const at::Tensor& x, const at::Tensor& weight) const {
  return x * (x.pow(2).mean(-1, true) + double(config_.norm_eps)).rsqrt() * weight;
}

at::Tensor TensorOps::activate(const at::Tensor& x) const {
  switch (config_.activation) {
    case tensor::Activation::kSilu:
      return at::silu(x);
    case tensor::Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case tensor::Activation::kGelu:
      return at::gelu(x);
    case tensor::Activation::kRelu:
      return at::relu(x);
  }
  return x;
}

void TensorOps::add_rows(at::Tensor& h, const at::Tensor& delta) const {
  h = active_.defined() ? h.index_add(0, active_, delta.to(h.scalar_type())) : h + delta;
}

at::Tensor TensorOps::embed(const at::Tensor& embedding, float scale, const at::Tensor& mask) {
  device_ = embedding.device();
  std::vector<int64_t> ids, others, masked;
  for (int r = 0; r < batch_.rows(); ++r) {
    const RowInput& in = batch_.inputs[size_t(r)];
    ids.push_back(in.kind == RowInput::kToken ? in.token : 0);
    if (in.kind == RowInput::kMask) {
      masked.push_back(r);
    } else if (in.kind != RowInput::kToken) {
      others.push_back(r);
    }
  }
  at::Tensor h = at::embedding(embedding, index_tensor(ids));
  if (scale != 1.0f) h = h * double(scale);
  if (!masked.empty()) {
    h = h.index_copy(0, index_tensor(masked),
                     mask.view({1, -1}).expand({int64_t(masked.size()), config_.hidden}));
  }
  if (others.empty()) return h;
  std::vector<at::Tensor> rows;
  for (const int64_t r : others) rows.push_back(free_input(embedding, scale, size_t(r)));
  return h.index_copy(0, index_tensor(others), at::stack(rows));
}

at::Tensor TensorOps::free_input(const at::Tensor& embedding, float scale, size_t row) const {
  const RowInput& in = batch_.inputs[row];
  const at::Tensor given = row < inputs_.rows.size() ? inputs_.rows[row] : at::Tensor();
  if (in.kind == RowInput::kVector)
    return given.defined() ? given : at::tensor(in.vector).to(embedding.options());
  if (in.kind == RowInput::kFromRow) return at::zeros({config_.hidden}, embedding.options());
  const std::vector<int64_t> ids(in.ids.begin(), in.ids.end());
  const at::Tensor weights =
      given.defined() ? given : at::tensor(in.weights).to(embedding.options());
  return weights.matmul(embedding.index_select(0, index_tensor(ids)) * double(scale));
}

void TensorOps::enter_epoch(const Epoch& epoch) {
  epoch_ = &epoch;
  groups_ = {};
  key_table_.reset();
  rotations_.clear();
  active_ = int(epoch.rows.size()) == batch_.rows()
                ? at::Tensor()
                : index_tensor(std::vector<int64_t>(epoch.rows.begin(), epoch.rows.end()));
}

void TensorOps::enter(at::Tensor& h, int layer) {
  for (const auto& epoch : batch_.epochs) {
    if (epoch.first_layer <= layer && layer < epoch.last_layer && epoch_ != &epoch)
      enter_epoch(epoch);
  }
  for (int r = 0; r < batch_.rows(); ++r) {
    const RowInput& in = batch_.inputs[size_t(r)];
    if (in.kind != RowInput::kFromRow || batch_.active[size_t(r)].enter != layer) continue;
    at::Tensor x = h[in.row];
    if (const auto given = inputs_.maps.find(in.map.get()); in.map && given != inputs_.maps.end()) {
      x = linear(x, given->second);
    } else if (in.map) {
      x = at::tensor(in.map->weight).view({in.map->width, in.map->width}).to(h.options()).matmul(x);
      if (!in.map->bias.empty()) x = x + at::tensor(in.map->bias).to(h.options());
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
  at::Tensor x = active_rows(h);
  if (norm_weight.defined()) x = norm(x, norm_weight);
  const int64_t rows = x.size(0), d = config_.head_dim;
  return {linear(x, q).view({rows, config_.heads, d}),
          linear(x, k).view({rows, config_.kv_heads, d}),
          linear(x, v).view({rows, config_.kv_heads, d})};
}

const TensorOps::Rotation& TensorOps::rotation(const Rope& rope, const at::Tensor& like) {
  const auto known = rotations_.find(&rope);
  if (known != rotations_.end()) return known->second;
  const auto pairs = int64_t(rope.inverse_frequency.size());
  std::vector<float> angles;  // in fp32, as the published implementations compute them
  for (const int row : epoch_->rows) {
    const Position& p = batch_.positions[size_t(row)];
    for (size_t i = 0; i < size_t(pairs); ++i) {
      const int axis = rope.axis.empty() ? 0 : rope.axis[i];
      angles.push_back(float(axis == 0 ? p.t : axis == 1 ? p.h : p.w) * rope.inverse_frequency[i]);
    }
  }
  const at::Tensor angle =
      at::tensor(angles).to(device_).view({int64_t(epoch_->rows.size()), 1, pairs}).to(at::kDouble);
  const auto part = [&](const at::Tensor& x) {
    return (x * double(rope.magnitude)).to(like.options());
  };
  return rotations_.emplace(&rope, Rotation{part(angle.cos()), part(angle.sin())}).first->second;
}

at::Tensor TensorOps::rotate(const at::Tensor& x, const Rope& rope) {
  const auto& [cos, sin] = rotation(rope, x);
  const int64_t pairs = cos.size(-1), rest = x.size(-1) - 2 * pairs;
  const at::Tensor a = x.narrow(-1, 0, pairs), b = x.narrow(-1, pairs, pairs);
  std::vector<at::Tensor> parts{a * cos - b * sin, b * cos + a * sin};
  if (rest > 0) parts.push_back(x.narrow(-1, 2 * pairs, rest));
  return at::cat(parts, -1);
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
  if (!config_.relative) {
    qkv.q = rotate(qkv.q, config_.rope_of(layer));
    qkv.k = rotate(qkv.k, config_.rope_of(layer));
  }
  fresh_k_ = by_row(qkv.k);
  fresh_v_ = by_row(qkv.v);
}

at::Tensor TensorOps::by_row(const at::Tensor& active) const {
  if (!active_.defined()) return active;
  return at::zeros({batch_.rows(), active.size(1), active.size(2)}, active.options())
      .index_add(0, active_, active);
}

// Softmax of one class over the bucket's scores [G, heads, r, k]: what it takes of the values [G,
// heads, k, d], and the exponent of its share beside the other classes, [G, heads, r, 1].
TensorOps::Attended TensorOps::attend_class(const AttentionBucket::Class& c, at::Tensor scores,
                                            const at::Tensor& values, bool alone) {
  const auto as_scores = [&](const at::Tensor& t) { return t.to(scores.dtype()); };
  if (c.inverse_temperature.defined()) scores = scores * as_scores(c.inverse_temperature);
  if (c.log_count.defined()) scores = scores + as_scores(c.log_count);
  if (c.hidden.defined()) scores = scores.masked_fill(c.hidden, -INFINITY);
  at::Tensor p = scores.softmax(-1);
  if (c.blind) p = p.masked_fill(c.hidden, 0.0);
  Attended attended{p.matmul(values), {}};
  if (alone) return attended;
  attended.exponent = scores.logsumexp(-1, /*keepdim=*/true);  // -inf without keys
  if (c.lse_scale.defined()) attended.exponent = attended.exponent * as_scores(c.lse_scale);
  return attended;
}

at::Tensor TensorOps::of_groups(const AttentionBucket& bucket, const at::Tensor& x,
                                const at::Tensor& index, int64_t n) {
  std::vector<int64_t> shape{bucket.groups, n};
  for (int64_t i = 1; i < x.dim(); ++i) shape.push_back(x.size(i));
  return (index.defined() ? x.index_select(0, index) : x).reshape(shape);
}

// [G * r, heads * d], group after group. `keys` and `values` are [all keys, kv_heads, d].
at::Tensor TensorOps::attend_bucket(const AttentionBucket& bucket, const at::Tensor& q,
                                    const at::Tensor& keys, const at::Tensor& values,
                                    const Terms& terms) const {
  const int64_t heads = config_.heads, d = config_.head_dim, kv_heads = config_.kv_heads;
  const auto grouped = [&](const at::Tensor& x, const at::Tensor& index,
                           int64_t n) {  // [G, heads of x, n, d]
    return of_groups(bucket, x, index, n).transpose(1, 2);
  };
  const auto shared = [&](const at::Tensor& x) {
    return heads == kv_heads ? x : x.repeat_interleave(heads / kv_heads, 1);
  };
  const at::Tensor k = shared(grouped(keys, bucket.key_index, bucket.keys));
  const at::Tensor v = shared(grouped(values, bucket.key_index, bucket.keys));
  at::Tensor scores = grouped(q, bucket.row_index, bucket.rows).matmul(k.transpose(-1, -2));
  if (terms) scores = scores + terms(bucket);
  scores = scores * double(config_.attention_scale);
  if (config_.attention_cap > 0) {
    scores = at::tanh(scores / double(config_.attention_cap)) * double(config_.attention_cap);
  }
  std::vector<at::Tensor> outs, exponents;
  const bool alone = bucket.classes.size() == 1;
  for (const auto& c : bucket.classes) {
    const Attended attended = attend_class(c, scores, v, alone);
    outs.push_back(attended.out);
    exponents.push_back(attended.exponent);
  }
  at::Tensor out = outs.front();
  if (!alone) {
    const at::Tensor exponent = at::stack(exponents);
    const at::Tensor none = (exponent == -INFINITY).all(0, true);
    out = (at::stack(outs) * exponent.softmax(0).masked_fill(none, 0.0)).sum(0);
  }
  return out.transpose(1, 2).reshape({bucket.groups * bucket.rows, heads * d});
}

const AttentionGroups& TensorOps::groups(int layer) {
  auto& known = groups_[config_.is_sliding(layer) ? 1 : 0];
  if (!known) {
    const auto& spans = config_.is_sliding(layer) ? epoch_->sliding : epoch_->full;
    known = attention_groups(batch_, *epoch_, spans, kv_.k[size_t(layer)].size(0), device_);
  }
  return *known;
}

at::Tensor TensorOps::attend(int layer, const Qkv& qkv) {
  return attend_with(layer, qkv, qkv.q, {});
}

at::Tensor TensorOps::attend_with(int layer, const Qkv& qkv, const at::Tensor& queries,
                                  const Terms& terms) {
  const at::Tensor &old_k = kv_.k[size_t(layer)], &old_v = kv_.v[size_t(layer)];
  const bool kept = old_k.size(0) > 0;
  const AttentionGroups& g = groups(layer);
  std::vector<at::Tensor> outs;
  if (!g.buckets.empty()) {
    const at::Tensor keys = kept ? at::cat({old_k, fresh_k_}) : fresh_k_;
    const at::Tensor values = kept ? at::cat({old_v, fresh_v_}) : fresh_v_;
    for (const AttentionBucket& bucket : g.buckets)
      outs.push_back(attend_bucket(bucket, queries, keys, values, terms));
  }
  if (kept) {
    // What later forwards read. The graph keeps the fresh rows themselves.
    std::vector<int64_t> written;
    for (const int row : epoch_->rows) {
      const auto slot = batch_.slots[size_t(row)];
      written.push_back(int64_t(slot.page) * tensor::kPageSlots + slot.slot);
    }
    old_k.index_copy_(0, index_tensor(written), qkv.k.detach());
    old_v.index_copy_(0, index_tensor(written), qkv.v.detach());
  }
  if (outs.empty())
    return at::zeros({0, int64_t(config_.heads) * config_.head_dim}, qkv.q.options());
  const at::Tensor out = outs.size() == 1 ? outs.front() : at::cat(outs);
  return g.order.defined() ? out.index_select(0, g.order) : out;
}

void TensorOps::linear_residual(at::Tensor& h, const at::Tensor& in,
                                const Linear<at::Tensor, at::Tensor>& l,
                                const at::Tensor& post_norm) {
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
  const auto [chosen, weights] = choose_experts(e, x.matmul(layer.router.t()), layer.router_bias);
  const auto expert = [&](const at::Tensor& in, const at::Tensor& gate, const at::Tensor& up,
                          const at::Tensor& down) {
    return (activate(in.matmul(gate.t())) * in.matmul(up.t())).matmul(down.t());
  };
  if (x.size(0) == 0) return;
  std::vector<at::Tensor> rows;
  const at::Tensor chosen_here = chosen.cpu();
  const auto ids = chosen_here.accessor<int64_t, 2>();
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
    if (layer.shared_router.defined())
      shared = shared * x.matmul(layer.shared_router.t()).sigmoid();
    y = y + shared;
  }
  if (layer.post_ffn_norm.defined()) y = norm(y, layer.post_ffn_norm);
  add_rows(h, y);
}

at::Tensor TensorOps::head_input(const at::Tensor& h, const at::Tensor& norm_weight) const {
  const std::vector<int64_t> rows(batch_.head_rows.begin(), batch_.head_rows.end());
  const at::Tensor x = h.index_select(0, index_tensor(rows));
  return norm_weight.defined() ? norm(x, norm_weight) : x;
}

void TensorOps::head(const at::Tensor& h, const at::Tensor& norm_weight, const at::Tensor& head,
                     const at::Tensor& bias) {
  if (batch_.head_rows.empty()) return;
  answer_.logits = head_input(h, norm_weight).matmul(head.t());
  if (bias.defined()) answer_.logits = answer_.logits + bias;
  if (config_.logit_cap > 0) {
    answer_.logits =
        at::tanh(answer_.logits / double(config_.logit_cap)) * double(config_.logit_cap);
  }
  if (const auto& tokens = config_.head_tokens; !tokens.empty()) {
    const at::Tensor ids = index_tensor(std::vector<int64_t>(tokens.begin(), tokens.end()));
    answer_.logits =
        at::full({answer_.logits.size(0), config_.vocab}, -INFINITY, answer_.logits.options())
            .index_copy(1, ids, answer_.logits);
  }
}

namespace {

template <class Ops>
void run_network(Ops& ops, const Config& config, const TensorWeights& weights) {
  require_head(config, "the network over ATen");
  if (config.relative) {
    xlnet_forward(ops, config, weights);
  } else {
    forward(ops, config, weights);
  }
}

// Stops before the head's product.
class StateOps : public TensorOps {
 public:
  using TensorOps::TensorOps;
  void head(const at::Tensor& h, const at::Tensor& norm_weight, const at::Tensor&,
            const at::Tensor& = {}) {
    states = head_input(h, norm_weight);
  }
  at::Tensor states;
};

}  // namespace

TensorAnswer tensor_forward(const Config& config, const TensorWeights& weights, const Batch& batch,
                            TensorKv& kv, const TensorInputs& inputs) {
  TensorOps ops(config, batch, kv, inputs);
  run_network(ops, config, weights);
  return std::move(ops.answer());
}

at::Tensor tensor_states(const Config& config, const TensorWeights& weights, const Batch& batch,
                         TensorKv& kv, const TensorInputs& inputs,
                         std::vector<at::Tensor>* hidden) {
  StateOps ops(config, batch, kv, inputs);
  run_network(ops, config, weights);
  if (hidden) *hidden = std::move(ops.answer().hidden);
  return ops.states;
}

}  // namespace tutti::models
