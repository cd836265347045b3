#include "models/row_ops.h"

#include <algorithm>
#include <cstring>

#include "models/expert_choice.h"
#include "tensor/quantise.h"

namespace tutti::models {
namespace {

using tensor::kTileOutputs;

template <class T>
void grow(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

void compute_cos_sin(const tensor::Kernels& k, const Rope& rope, const Position& position,
                     float* out) {
  const int pairs = int(rope.inverse_frequency.size());
  float angles[1024];
  for (int i = 0; i < pairs; ++i) {
    const int axis = rope.axis.empty() ? 0 : rope.axis[size_t(i)];
    const int32_t p = axis == 0 ? position.t : axis == 1 ? position.h : position.w;
    angles[i] = float(p) * rope.inverse_frequency[size_t(i)];
  }
  k.cos_sin(angles, pairs, out, out + pairs);
  if (rope.magnitude != 1.0f) k.scale(rope.magnitude, 2 * pairs, out);
}

}  // namespace

void RowOps::Operands::add(const tensor::Matrix& m) {
  if (m.empty()) return;
  switch (m.arithmetic()) {
    case tensor::Arithmetic::kExactQ8:
      (m.activation_block() == 256 ? q256 : q32) = true;
      break;
    case tensor::Arithmetic::kW8A8Row:
      row8 = true;
      break;
    case tensor::Arithmetic::kBf16Dot:
      bf16 = true;
      break;
    case tensor::Arithmetic::kExactF32:
      break;
  }
}

void QuantisedBuffer::reserve(int row_count, int n, int block) {
  const size_t quants = (size_t(row_count) * size_t(n) + 63) / 64 * 64;
  const size_t scales = (size_t(row_count) * size_t(n / block) * 4 + 63) / 64 * 64;
  const size_t sums = size_t(row_count) * size_t(n / 16) * 4;
  if (memory.size() < quants + scales + sums) memory = tensor::AlignedBytes(quants + scales + sums);
  rows.block = block;
  rows.n = n;
  rows.q = reinterpret_cast<int8_t*>(memory.data());
  rows.scales = reinterpret_cast<float*>(memory.data() + quants);
  rows.sums = reinterpret_cast<int32_t*>(memory.data() + quants + scales);
}

void RowWorkspace::prepare(const Config& c, const Batch& batch, int workers) {
  const size_t rows = size_t(batch.rows());
  const size_t q_width = size_t(c.heads) * size_t(c.head_dim);
  const size_t kv_width = size_t(c.kv_heads) * size_t(c.head_dim);
  const size_t widest = size_t(std::max({c.hidden, c.intermediate, c.experts.intermediate,
                                         c.experts.shared_intermediate, int(q_width)}));
  const size_t inner = size_t(std::max({c.intermediate, c.experts.shared_intermediate, 1}));
  grow(hidden, rows * size_t(c.hidden));
  grow(normed, rows * widest);
  grow(qkv, rows * (q_width + 2 * kv_width));
  grow(attended, rows * q_width);
  grow(gate, rows * inner);
  grow(up, rows * inner);
  grow(projected, rows * size_t(c.hidden));
  grow(cos_sin, rows * 2 * c.rope.inverse_frequency.size());
  grow(sliding_cos_sin, rows * 2 * c.sliding_rope.inverse_frequency.size());
  const size_t head_rows = std::min<size_t>(RowOps::kHeadRows, batch.head_rows.size());
  grow(logits, head_rows * size_t(c.head_rows()));
  if (c.experts.count > 0) {
    const size_t pairs = rows * size_t(c.experts.used);
    const size_t wide = size_t(std::max(c.hidden, c.experts.intermediate));
    grow(router, rows * size_t(c.experts.count));
    grow(choice, rows * size_t(c.experts.count));
    grow(chosen, pairs);
    grow(chosen_weight, pairs);
    grow(expert_first, size_t(c.experts.count) + 1);
    grow(expert_pairs, pairs);
    grow(expert_in, pairs * wide);
    grow(expert_out, pairs * size_t(c.hidden));
    grow(gate, pairs * size_t(c.experts.intermediate));
    grow(up, pairs * size_t(c.experts.intermediate));
    grow(shared_out, rows * size_t(c.hidden));
    grow(shared_gate, rows);
  }
  // The quantised buffers are laid out for the width in use by each operation; make room for the
  // widest.
  const size_t most_rows = rows * size_t(std::max(1, c.experts.used));
  q32.reserve(int(most_rows), int((widest + 31) / 32 * 32), 32);
  q256.reserve(int(most_rows), int((widest + 255) / 256 * 256), 256);
  row8.reserve(int(most_rows), int((widest + 63) / 64 * 64), int((widest + 63) / 64 * 64));
  grow(bf16, most_rows * ((widest + 31) / 32 * 32));
  prepare_attention(c, batch, workers);
  if (c.relative) prepare_distances(c, workers);
}

RowOps::RowOps(const Shared& shared, Worker& worker)
    : shared_(shared),
      worker_(worker),
      k_(shared.kernels),
      steps_(tensor::attend_steps(shared.kernels.isa)),
      config_(shared.config),
      batch_(shared.batch),
      space_(shared.space),
      epoch_(&shared.batch.epochs.front()) {}

float* RowOps::hidden_of(int row) const {
  return space_.hidden.data() + size_t(row) * size_t(config_.hidden);
}

RowOps::Rows RowOps::embed(const tensor::Matrix&, float scale, const RowVector& mask) {
  const StoredTensor& table = shared_.embedding;
  const size_t row_bytes = tensor::row_bytes(table.type, table.cols);
  const int hidden = config_.hidden;
  const auto look_up = [&](int32_t id, std::span<float> out) {
    tensor::dequantise(table.type, table.data.subspan(size_t(id) * row_bytes, row_bytes), out);
    if (scale != 1.0f) k_.scale(scale, hidden, out.data());
  };
  std::vector<float> part;
  const auto [first, last] = worker_.share(batch_.rows());
  for (int r = first; r < last; ++r) {
    const RowInput& in = batch_.inputs[size_t(r)];
    float* x = hidden_of(r);
    const std::span<float> out(x, size_t(hidden));
    switch (in.kind) {
      case RowInput::kToken:
        look_up(in.token, out);
        break;
      case RowInput::kVector:
        std::memcpy(x, in.vector.data(), size_t(hidden) * sizeof(float));
        break;
      case RowInput::kMix:
        part.resize(size_t(hidden));
        std::fill(out.begin(), out.end(), 0.0f);
        for (size_t i = 0; i < in.ids.size(); ++i) {
          look_up(in.ids[i], part);
          k_.add_scaled(in.weights[i], part.data(), hidden, x);
        }
        break;
      case RowInput::kFromRow:
        break;  // filled when it enters
      case RowInput::kMask:
        std::copy(mask.begin(), mask.end(), x);
        break;
    }
    const size_t full = 2 * config_.rope.inverse_frequency.size();
    compute_cos_sin(k_, config_.rope, batch_.positions[size_t(r)],
                    space_.cos_sin.data() + size_t(r) * full);
    const size_t sliding = 2 * config_.sliding_rope.inverse_frequency.size();
    if (sliding > 0) {
      compute_cos_sin(k_, config_.sliding_rope, batch_.positions[size_t(r)],
                      space_.sliding_cos_sin.data() + size_t(r) * sliding);
    }
  }
  worker_.barrier();
  return {space_.hidden.data(), hidden};
}

void RowOps::enter(Rows, int layer) {
  for (const auto& epoch : batch_.epochs) {
    if (epoch.first_layer <= layer && layer < epoch.last_layer) epoch_ = &epoch;
  }
  // Entering rows, one after the other (a source may itself have just entered); each map's outputs
  // are shared.
  const int hidden = config_.hidden;
  for (int r = 0; r < batch_.rows(); ++r) {
    const RowInput& in = batch_.inputs[size_t(r)];
    if (in.kind != RowInput::kFromRow || batch_.active[size_t(r)].enter != layer) continue;
    const float* source = hidden_of(in.row);
    float* x = hidden_of(r);
    if (!in.map) {
      if (worker_.index() == 0) std::memcpy(x, source, size_t(hidden) * sizeof(float));
    } else {
      const auto [first, last] = worker_.share(in.map->packed.tiles());
      k_.matmul_dense(in.map->packed, source, size_t(hidden), 1, first, last, x, size_t(hidden));
      if (!in.map->bias.empty()) {
        const int from = first * kTileOutputs, to = std::min(last * kTileOutputs, hidden);
        if (to > from) k_.add(in.map->bias.data() + from, to - from, x + from);
      }
    }
    worker_.barrier();
  }
  const auto [first, last] = worker_.share(int(batch_.hidden.size()));
  for (int i = first; i < last; ++i) {
    const HiddenWant& want = batch_.hidden[size_t(i)];
    if (want.layer == layer)
      std::memcpy(want.out, hidden_of(want.row), size_t(hidden) * sizeof(float));
  }
}

void RowOps::set_width(int width) {
  q32_ = space_.q32.rows;
  q256_ = space_.q256.rows;
  row8_ = space_.row8.rows;
  q32_.n = q256_.n = row8_.n = row8_.block = width;
  bf16_stride_ = (size_t(width) + 31) / 32 * 32;
}

void RowOps::convert(const float* in, int first, int count, const Operands& need) {
  const size_t width = size_t(q32_.n);
  if (need.q32) k_.quantise(in, width, count, q32_, first);
  if (need.q256) k_.quantise(in, width, count, q256_, first);
  if (need.row8) k_.quantise(in, width, count, row8_, first);
  for (int r = 0; need.bf16 && r < count; ++r) {
    k_.round_bf16(in + size_t(r) * width, int(width),
                  space_.bf16.data() + size_t(first + r) * bf16_stride_);
  }
}

void RowOps::norm_rows(std::span<const int> rows, const RowVector& norm, const Operands& need) {
  const int hidden = config_.hidden;
  set_width(hidden);
  const auto [first, last] = worker_.share(int(rows.size()));
  for (int i = first; i < last; ++i) {
    float* out = space_.normed.data() + size_t(i) * size_t(hidden);
    const float* in = hidden_of(rows[size_t(i)]);
    if (norm.empty()) {
      std::copy_n(in, hidden, out);
    } else {
      k_.rms_norm(in, norm.data(), config_.norm_eps, hidden, out);
    }
    convert(out, i, 1, need);
  }
  worker_.barrier();
}

void RowOps::convert_rows(const float* in, int width, int count, const Operands& need) {
  if (!need.any()) return;
  set_width(width);
  const auto [first, last] = worker_.share(count);
  if (last > first) convert(in + size_t(first) * size_t(width), first, last - first, need);
  worker_.barrier();
}

void RowOps::multiply(const Product& product, const float* dense, size_t dense_stride, int count,
                      int first, int last) {
  if (first >= last || count == 0) return;
  const tensor::Matrix& m = *product.matrix;
  switch (m.arithmetic()) {
    case tensor::Arithmetic::kExactQ8:
      k_.matmul_quantised(m, m.activation_block() == 256 ? q256_ : q32_, count, first, last,
                          product.out, product.stride);
      break;
    case tensor::Arithmetic::kW8A8Row:
      k_.matmul_w8a8(m, row8_, count, first, last, product.out, product.stride);
      break;
    case tensor::Arithmetic::kBf16Dot:
      k_.matmul_bf16(m, space_.bf16.data(), bf16_stride_, count, first, last, product.out,
                     product.stride);
      break;
    case tensor::Arithmetic::kExactF32:
      k_.matmul_dense(m, dense, dense_stride, count, first, last, product.out, product.stride);
  }
  if (product.bias && !product.bias->empty()) {
    const int from = first * kTileOutputs, to = std::min(last * kTileOutputs, m.out());
    for (int i = 0; i < count; ++i) {
      k_.add(product.bias->data() + from, to - from,
             product.out + size_t(i) * product.stride + from);
    }
  }
}

void RowOps::multiply_shared(std::span<const Product> products, const float* dense,
                             size_t dense_stride, int count) {
  int tiles = 0;
  for (const auto& p : products) tiles += p.matrix->tiles();
  const auto [first, last] = worker_.share(tiles);
  int offset = 0;
  for (const auto& p : products) {
    const int n = p.matrix->tiles();
    multiply(p, dense, dense_stride, count, std::clamp(first - offset, 0, n),
             std::clamp(last - offset, 0, n));
    offset += n;
  }
}

RowOps::Rows RowOps::norm_qkv(Rows, const RowVector& norm,
                              const Linear<tensor::Matrix, RowVector>& q,
                              const Linear<tensor::Matrix, RowVector>& k,
                              const Linear<tensor::Matrix, RowVector>& v) {
  Operands need;
  need.add(q.weight);
  need.add(k.weight);
  need.add(v.weight);
  norm_rows(epoch_->rows, norm, need);
  const int q_width = config_.heads * config_.head_dim,
            kv_width = config_.kv_heads * config_.head_dim;
  const int width = q_width + 2 * kv_width;
  float* out = space_.qkv.data();
  const Product products[] = {{&q.weight, &q.bias, out, size_t(width)},
                              {&k.weight, &k.bias, out + q_width, size_t(width)},
                              {&v.weight, &v.bias, out + q_width + kv_width, size_t(width)}};
  multiply_shared(products, space_.normed.data(), size_t(config_.hidden), active());
  worker_.barrier();
  return {out, width};
}

void RowOps::rope_store(int layer, Rows qkv, const RowVector& q_norm, const RowVector& k_norm,
                        const RowVector& segments) {
  const int d = config_.head_dim, heads = config_.heads, kv_heads = config_.kv_heads;
  const Rope& rope = config_.rope_of(layer);
  const int pairs = int(rope.inverse_frequency.size());
  const std::vector<float>& table =
      &rope == &config_.rope ? space_.cos_sin : space_.sliding_cos_sin;
  const auto [first, last] = worker_.share(active());
  for (int i = first; i < last; ++i) {
    const int row = epoch_->rows[size_t(i)];
    float* q = qkv.data + size_t(i) * size_t(qkv.width);
    float* k = q + heads * d;
    float* v = k + kv_heads * d;
    if (!q_norm.empty()) {
      for (int h = 0; h < heads; ++h)
        k_.rms_norm(q + h * d, q_norm.data(), config_.norm_eps, d, q + h * d);
    }
    if (!k_norm.empty()) {
      for (int h = 0; h < kv_heads; ++h)
        k_.rms_norm(k + h * d, k_norm.data(), config_.norm_eps, d, k + h * d);
    }
    const size_t segment = size_t(batch_.segments[size_t(row)]);
    if (!segments.empty() && segment * size_t(d) < segments.size()) {
      for (int h = 0; h < kv_heads; ++h) {
        k_.add(segments.data() + segment * size_t(d), d, k + h * d);
        k_.add(segments.data() + segment * size_t(d), d, v + h * d);
      }
    }
    const float* cos_sin = table.data() + size_t(row) * size_t(2 * pairs);
    k_.rope(q, heads, d, pairs, false, cos_sin);
    k_.rope(k, kv_heads, d, pairs, false, cos_sin);
    const Batch::Slot slot = batch_.slots[size_t(row)];
    k_.store_kv(shared_.kv.layout, layer, k, v, shared_.kv.pages[slot.page], slot.slot);
  }
  worker_.barrier();
}

void RowOps::linear_residual(Rows, Rows in, const Linear<tensor::Matrix, RowVector>& linear,
                             const RowVector& post_norm) {
  Operands need;
  need.add(linear.weight);
  convert_rows(in.data, in.width, active(), need);
  const int hidden = config_.hidden;
  float* out = space_.projected.data();
  const Product product{&linear.weight, &linear.bias, out, size_t(hidden)};
  const auto [first, last] = worker_.share(linear.weight.tiles());
  multiply(product, in.data, size_t(in.width), active(), first, last);
  if (post_norm.empty()) {
    const int from = first * kTileOutputs, to = std::min(last * kTileOutputs, hidden);
    for (int i = 0; i < active() && to > from; ++i) {
      k_.add(out + size_t(i) * size_t(hidden) + from, to - from,
             hidden_of(epoch_->rows[size_t(i)]) + from);
    }
  } else {
    worker_.barrier();
    const auto [first_row, last_row] = worker_.share(active());
    for (int i = first_row; i < last_row; ++i) {
      float* row = out + size_t(i) * size_t(hidden);
      k_.rms_norm(row, post_norm.data(), config_.norm_eps, hidden, row);
      k_.add(row, hidden, hidden_of(epoch_->rows[size_t(i)]));
    }
  }
  worker_.barrier();
}

RowOps::Rows RowOps::norm_gated(Rows, const RowVector& norm,
                                const Linear<tensor::Matrix, RowVector>& gate,
                                const Linear<tensor::Matrix, RowVector>& up) {
  Operands need;
  need.add(gate.weight);
  need.add(up.weight);
  norm_rows(epoch_->rows, norm, need);
  const int inner = config_.intermediate;
  const auto [first, last] = worker_.share(gate.weight.tiles());
  multiply({&gate.weight, &gate.bias, space_.gate.data(), size_t(inner)}, space_.normed.data(),
           size_t(config_.hidden), active(), first, last);
  multiply({&up.weight, &up.bias, space_.up.data(), size_t(inner)}, space_.normed.data(),
           size_t(config_.hidden), active(), first, last);
  const int from = first * kTileOutputs, to = std::min(last * kTileOutputs, inner);
  for (int i = 0; i < active() && to > from; ++i) {
    float* g = space_.gate.data() + size_t(i) * size_t(inner) + from;
    k_.gated(config_.activation, g, space_.up.data() + size_t(i) * size_t(inner) + from, to - from,
             g);
  }
  worker_.barrier();
  return {space_.gate.data(), inner};
}

void RowOps::experts_residual(Rows h, const LayerWeights<tensor::Matrix, RowVector>& layer) {
  const Experts& e = config_.experts;
  const int hidden = config_.hidden, used = e.used, inner = e.intermediate, count = active();
  Operands shared_need;
  if (!layer.shared_gate.empty()) {
    shared_need.add(layer.shared_gate);
    shared_need.add(layer.shared_up);
    shared_need.add(layer.shared_router);
  }
  norm_rows(epoch_->rows, layer.ffn_norm, shared_need);

  // The router always computes in fp32: its matrix is packed dense.
  const Product router{&layer.router, nullptr, space_.router.data(), size_t(e.count)};
  multiply_shared({&router, 1}, space_.normed.data(), size_t(hidden), count);
  if (!layer.shared_gate.empty()) {
    const int shared = e.shared_intermediate;
    const Product gate_up[] = {{&layer.shared_gate, nullptr, space_.gate.data(), size_t(shared)},
                               {&layer.shared_up, nullptr, space_.up.data(), size_t(shared)},
                               {&layer.shared_router, nullptr, space_.shared_gate.data(), 1}};
    multiply_shared(std::span(gate_up, layer.shared_router.empty() ? 2 : 3), space_.normed.data(),
                    size_t(hidden), count);
    worker_.barrier();
    const auto [first, last] = worker_.share(count);
    for (int i = first; i < last; ++i) {
      float* g = space_.gate.data() + size_t(i) * size_t(shared);
      k_.gated(config_.activation, g, space_.up.data() + size_t(i) * size_t(shared), shared, g);
    }
    worker_.barrier();
    Operands down_need;
    down_need.add(layer.shared_down);
    convert_rows(space_.gate.data(), shared, count, down_need);
    const Product down{&layer.shared_down, nullptr, space_.shared_out.data(), size_t(hidden)};
    multiply_shared({&down, 1}, space_.gate.data(), size_t(shared), count);
  }
  worker_.barrier();

  {
    const auto [first, last] = worker_.share(count);
    for (int i = first; i < last; ++i) {
      const size_t at = size_t(i) * size_t(e.count);
      choose_experts(k_, e, layer.router_bias, {space_.router.data() + at, size_t(e.count)},
                     {space_.choice.data() + at, size_t(e.count)},
                     {space_.chosen.data() + size_t(i) * size_t(used), size_t(used)},
                     {space_.chosen_weight.data() + size_t(i) * size_t(used), size_t(used)});
    }
  }
  worker_.barrier();

  // Group the (row, rank) pairs by expert, and copy their inputs together.
  if (worker_.index() == 0) {
    std::fill_n(space_.expert_first.begin(), e.count + 1, 0);
    for (int p = 0; p < count * used; ++p)
      ++space_.expert_first[size_t(space_.chosen[size_t(p)]) + 1];
    for (int x = 0; x < e.count; ++x)
      space_.expert_first[size_t(x) + 1] += space_.expert_first[size_t(x)];
    std::vector<int> next(space_.expert_first.begin(), space_.expert_first.begin() + e.count);
    for (int p = 0; p < count * used; ++p) {
      space_.expert_pairs[size_t(next[size_t(space_.chosen[size_t(p)])]++)] = p;
    }
  }
  worker_.barrier();
  {
    const auto [first, last] = worker_.share(count * used);
    for (int at = first; at < last; ++at) {
      const int row = space_.expert_pairs[size_t(at)] / used;
      std::memcpy(space_.expert_in.data() + size_t(at) * size_t(hidden),
                  space_.normed.data() + size_t(row) * size_t(hidden),
                  size_t(hidden) * sizeof(float));
    }
  }
  worker_.barrier();
  for (int x = 0; x < e.count; ++x) {
    const int at = space_.expert_first[size_t(x)];
    const int rows = space_.expert_first[size_t(x) + 1] - at;
    if (rows == 0) continue;
    const tensor::Matrix& gate = layer.expert_gate[size_t(x)];
    const tensor::Matrix& up = layer.expert_up[size_t(x)];
    const tensor::Matrix& down = layer.expert_down[size_t(x)];
    const float* in = space_.expert_in.data() + size_t(at) * size_t(hidden);
    Operands need;
    need.add(gate);
    need.add(up);
    convert_rows(in, hidden, rows, need);
    const auto [first, last] = worker_.share(gate.tiles());
    multiply({&gate, nullptr, space_.gate.data(), size_t(inner)}, in, size_t(hidden), rows, first,
             last);
    multiply({&up, nullptr, space_.up.data(), size_t(inner)}, in, size_t(hidden), rows, first,
             last);
    const int from = first * kTileOutputs, to = std::min(last * kTileOutputs, inner);
    for (int i = 0; i < rows && to > from; ++i) {
      float* g = space_.gate.data() + size_t(i) * size_t(inner) + from;
      k_.gated(config_.activation, g, space_.up.data() + size_t(i) * size_t(inner) + from,
               to - from, g);
    }
    worker_.barrier();
    Operands down_need;
    down_need.add(down);
    convert_rows(space_.gate.data(), inner, rows, down_need);
    const Product product{&down, nullptr, space_.expert_out.data() + size_t(at) * size_t(hidden),
                          size_t(hidden)};
    multiply_shared({&product, 1}, space_.gate.data(), size_t(inner), rows);
    worker_.barrier();
  }

  // Sum in gate-rank order, the shared expert last.
  if (worker_.index() == 0) {
    for (int at = 0; at < count * used; ++at) {
      space_.chosen[size_t(space_.expert_pairs[size_t(at)])] =
          at;  // pair -> where its output stands
    }
  }
  worker_.barrier();
  const auto [first, last] = worker_.share(count);
  for (int i = first; i < last; ++i) {
    float* sum = space_.projected.data() + size_t(i) * size_t(hidden);
    std::fill_n(sum, hidden, 0.0f);
    for (int rank = 0; rank < used; ++rank) {
      const size_t pair = size_t(i) * size_t(used) + size_t(rank);
      k_.add_scaled(space_.chosen_weight[pair],
                    space_.expert_out.data() + size_t(space_.chosen[pair]) * size_t(hidden), hidden,
                    sum);
    }
    if (!layer.shared_gate.empty()) {
      float weight = 1.0f;
      if (!layer.shared_router.empty()) {
        // sigmoid(g) = silu(g) * 1 / g would divide by zero; 1 / (1 + exp(-g)) does not
        float g = -space_.shared_gate[size_t(i)];
        k_.exp(&g, 1, &g);
        weight = 1.0f / (1.0f + g);
      }
      k_.add_scaled(weight, space_.shared_out.data() + size_t(i) * size_t(hidden), hidden, sum);
    }
    if (!layer.post_ffn_norm.empty()) {
      k_.rms_norm(sum, layer.post_ffn_norm.data(), config_.norm_eps, hidden, sum);
    }
    k_.add(sum, hidden, hidden_of(epoch_->rows[size_t(i)]));
  }
  (void)h;
  worker_.barrier();
}

void RowOps::head(Rows, const RowVector& norm, const tensor::Matrix& head, const RowVector& bias) {
  const int count = int(batch_.head_rows.size()), width = config_.head_rows();
  Operands need;
  need.add(head);
  for (int first = 0; first < count; first += kHeadRows) {
    const int rows = std::min(kHeadRows, count - first);
    norm_rows(std::span(batch_.head_rows).subspan(size_t(first), size_t(rows)), norm, need);
    const Product product{&head, &bias, space_.logits.data(), size_t(width)};
    multiply_shared({&product, 1}, space_.normed.data(), size_t(config_.hidden), rows);
    worker_.barrier();
    // Interleaved, so that a few expensive rows next to each other do not fall on one worker.
    for (int i = worker_.index(); i < rows; i += worker_.count()) {
      const std::span<float> logits(space_.logits.data() + size_t(i) * size_t(width),
                                    size_t(width));
      if (config_.logit_cap > 0) k_.soft_cap(config_.logit_cap, width, logits.data());
      shared_.consume(worker_.index(), first + i, logits);
    }
    worker_.barrier();
  }
}

}  // namespace tutti::models
