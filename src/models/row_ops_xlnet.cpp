// The operations of XLNet as CPU kernels (row_ops.h).
#include <algorithm>
#include <cmath>

#include "models/row_ops.h"

namespace tutti::models {
namespace {

using XlnetLayer = LayerWeights<tensor::Matrix, RowVector>;

// (q + bias) . key, one chain.
float biased_dot(const float* q, const float* bias, const float* key, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum = std::fma(q[i] + bias[i], key[i], sum);
  return sum;
}

}  // namespace

void RowWorkspace::prepare_distances(const Config& c, int workers) {
  const size_t all = size_t(RelativeKeys::distances(c) + tensor::kTileOutputs);
  distances.resize(size_t(workers));
  for (auto& d : distances) {
    if (d.size() < all) d.resize(all);
  }
}

// Products with all distances between the nearest and the farthest key are one run of tiles; keys
// then take their own.
void RowOps::relative_terms(int layer, int head, int row, const RunSpan& span, const float* q,
                            const XlnetLayer& weights, float* terms) {
  if (span.keys == 0) return;
  const int d = config_.head_dim, width = config_.heads * d;
  const auto keys = std::span(batch_.key_places).subspan(size_t(span.first_key), size_t(span.keys));
  const int at = batch_.positions[size_t(row)].t, segment = batch_.segments[size_t(row)];
  const auto [low, high] = std::ranges::minmax(keys, {}, &KeyPlace::position);
  const int first = shared_.relative->index(at - high.position) / tensor::kTileOutputs;
  const int last = shared_.relative->index(at - low.position) / tensor::kTileOutputs + 1;
  float query[tensor::kMaxHeadDim];
  for (int i = 0; i < d; ++i) query[i] = q[i] + weights.position_bias[size_t(head * d + i)];
  const tensor::Matrix& table = shared_.relative->of(layer, head);
  float* products = space_.distances[size_t(worker_.index())].data();
  k_.matmul_dense(table, query, size_t(d), 1, first, last, products, size_t(table.out()));
  const auto elsewhere = [segment](const KeyPlace& key) { return key.segment != segment; };
  float other = 0;
  if (std::ranges::any_of(keys, elsewhere)) {
    const float* bias = weights.segment_bias.data() + head * d;
    const float* own = weights.segment_keys.data() + head * d;
    other = biased_dot(q, bias, own + width, d) - biased_dot(q, bias, own, d);
  }
  for (size_t k = 0; k < keys.size(); ++k) {
    terms[k] = products[shared_.relative->index(at - keys[k].position)];
    if (elsewhere(keys[k])) terms[k] += other;
  }
}

RowOps::Rows RowOps::attend_relative(int layer, Rows qkv, const XlnetLayer& weights) {
  const int d = config_.head_dim, width = config_.heads * d;
  tensor::AttendParams params = attend_params(layer);
  params.added = true;
  params.group = 1;
  const AttentionPlan& plan = attention_plan(layer);
  float* scratch = space_.scores[size_t(worker_.index())].data();
  float query[tensor::kMaxHeadDim];
  for (const auto& own : plan.shares[size_t(worker_.index())].heads) {
    const RowGroup& g = plan.groups[size_t(own.group)];
    for (int i = g.first; i < g.first + g.count; ++i) {
      const int row = epoch_->rows[size_t(i)];
      const RunSpan& span = epoch_->full[size_t(i)];
      set_classes(row, params);
      for (int h = own.first; h < own.last; ++h) {
        const float* q = qkv.data + size_t(i) * size_t(qkv.width) + h * d;
        relative_terms(layer, h, row, span, q, weights, scratch);
        for (int x = 0; x < d; ++x) query[x] = q[x] + weights.content_bias[size_t(h * d + x)];
        params.kv_head = h;
        k_.attend(params, query, batch_.runs.data() + span.first, span.count,
                  space_.attended.data() + size_t(i) * size_t(width) + h * d, nullptr, scratch);
      }
    }
  }
  worker_.barrier();
  return {space_.attended.data(), width};
}

void RowOps::linear_layer_norm(Rows, Rows in, const Linear<tensor::Matrix, RowVector>& linear,
                               const RowVector& norm, const RowVector& norm_bias) {
  Operands need;
  need.add(linear.weight);
  convert_rows(in.data, in.width, active(), need);
  const int hidden = config_.hidden;
  const Product product{&linear.weight, &linear.bias, space_.projected.data(), size_t(hidden)};
  multiply_shared({&product, 1}, in.data, size_t(in.width), active());
  worker_.barrier();
  const auto [first, last] = worker_.share(active());
  for (int i = first; i < last; ++i) {
    float* h = hidden_of(epoch_->rows[size_t(i)]);
    k_.add(space_.projected.data() + size_t(i) * size_t(hidden), hidden, h);
    k_.layer_norm(h, norm.data(), norm_bias.data(), config_.norm_eps, hidden, h);
  }
  worker_.barrier();
}

RowOps::Rows RowOps::activated(Rows, const Linear<tensor::Matrix, RowVector>& linear) {
  Operands need;
  need.add(linear.weight);
  norm_rows(epoch_->rows, {}, need);
  const int inner = config_.intermediate;
  const auto [first, last] = worker_.share(linear.weight.tiles());
  multiply({&linear.weight, &linear.bias, space_.up.data(), size_t(inner)}, space_.normed.data(),
           size_t(config_.hidden), active(), first, last);
  const int from = first * tensor::kTileOutputs, to = std::min(last * tensor::kTileOutputs, inner);
  for (int i = 0; i < active() && to > from; ++i) {
    k_.activate(config_.activation, to - from, space_.up.data() + size_t(i) * size_t(inner) + from);
  }
  worker_.barrier();
  return {space_.up.data(), inner};
}

}  // namespace tutti::models
