// The operations of XLNet over ATen tensors (tensor_ops.h).
#include <ATen/ATen.h>

#include "models/aten/tensor_ops.h"

namespace tutti::models {
namespace {

// R(delta) for delta = -farthest .. farthest, [distances, hidden]; see relative_keys.h.
at::Tensor encodings(int64_t farthest, int64_t hidden, const at::Tensor& like) {
  const at::Tensor t = at::arange(0, hidden / 2, at::kDouble);
  const at::Tensor frequency = at::pow(10000.0, t * (-2.0 / double(hidden))).to(at::kFloat);
  const at::Tensor delta = at::arange(-farthest, farthest + 1, at::kFloat);
  const at::Tensor angle = (delta.unsqueeze(1) * frequency).to(at::kDouble);
  return at::cat({angle.sin(), angle.cos()}, 1).to(like.options());
}

}  // namespace

const TensorOps::KeyTable& TensorOps::key_table(int64_t slots) {
  if (key_table_) return *key_table_;
  const size_t rows = size_t(batch_.rows());
  std::vector<int64_t> positions(size_t(slots) + rows), segments(size_t(slots) + rows);
  for (size_t r = 0; r < rows; ++r) {
    positions[size_t(slots) + r] = batch_.positions[r].t;
    segments[size_t(slots) + r] = batch_.segments[r];
  }
  // An earlier slot is known by those that see it.
  for (const RunSpan& span : epoch_->full) {
    auto place = batch_.key_places.begin() + span.first_key;
    for (int i = span.first; i < span.first + span.count && slots > 0; ++i) {
      const tensor::KvRun& run = batch_.runs[size_t(i)];
      for (int x = 0; x < run.count; ++x, ++place) {
        const size_t slot = size_t(run.page) * tensor::kPageSlots + run.first + size_t(x);
        if (slot >= size_t(slots)) continue;
        positions[slot] = place->position;
        segments[slot] = place->segment;
      }
    }
  }
  key_table_ = KeyTable{index_tensor(positions), index_tensor(segments)};
  return *key_table_;
}

at::Tensor TensorOps::attend_relative(int layer, const Qkv& qkv,
                                      const LayerWeights<at::Tensor, at::Tensor>& w) {
  const int64_t heads = config_.heads, d = config_.head_dim;
  const auto by_head = [&](const at::Tensor& t) { return t.view({-1, heads, d}); };
  std::vector<int64_t> own_positions, own_segments;
  for (const int row : epoch_->rows) {
    own_positions.push_back(batch_.positions[size_t(row)].t);
    own_segments.push_back(batch_.segments[size_t(row)]);
  }
  const at::Tensor positions = index_tensor(own_positions), segments = index_tensor(own_segments);
  const KeyTable& table = key_table(kv_.k[size_t(layer)].size(0));
  const at::Tensor far =
      table.positions.numel() > 0 ? table.positions.max() : at::zeros({}, at::kLong);
  int64_t farthest = std::max<int64_t>(far.item<int64_t>(),
                                       own_positions.empty() ? 0 : positions.max().item<int64_t>());
  if (config_.clamp_distance > 0) farthest = std::min<int64_t>(farthest, config_.clamp_distance);
  const at::Tensor relative =
      by_head(encodings(farthest, config_.hidden, qkv.q).matmul(w.relative.t()));
  const at::Tensor by_position = qkv.q + by_head(w.position_bias);
  const at::Tensor by_segment = qkv.q + by_head(w.segment_bias);
  const at::Tensor kinds = by_head(w.segment_keys);                      // [2, heads, d]
  const at::Tensor step = (by_segment * (kinds[1] - kinds[0])).sum(-1);  // [active, heads]

  const Terms terms = [&](const AttentionBucket& b) {
    const auto of_rows = [&](const at::Tensor& x) { return of_groups(b, x, b.row_index, b.rows); };
    const auto of_keys = [&](const at::Tensor& x) { return of_groups(b, x, b.key_index, b.keys); };
    const at::Tensor delta =
        (of_rows(positions).unsqueeze(2) - of_keys(table.positions).unsqueeze(1))
            .clamp(-farthest, farthest);
    const at::Tensor all = of_rows(by_position).transpose(1, 2).matmul(relative.permute({1, 2, 0}));
    const at::Tensor near =
        all.gather(3, (delta + farthest).unsqueeze(1).expand({-1, heads, -1, -1}));
    const at::Tensor elsewhere =
        of_rows(segments).unsqueeze(2).ne(of_keys(table.segments).unsqueeze(1));
    return near +
           of_rows(step).transpose(1, 2).unsqueeze(3) * elsewhere.unsqueeze(1).to(near.dtype());
  };
  return attend_with(layer, qkv, qkv.q + by_head(w.content_bias), terms);
}

void TensorOps::linear_layer_norm(at::Tensor& h, const at::Tensor& in,
                                  const Linear<at::Tensor, at::Tensor>& l, const at::Tensor& weight,
                                  const at::Tensor& bias) {
  at::Tensor y = active_rows(h) + in.matmul(l.weight.t());
  if (l.bias.defined()) y = y + l.bias;
  const at::Tensor normed =
      at::layer_norm(y, {config_.hidden}, weight, bias, double(config_.norm_eps));
  h = active_.defined() ? h.index_copy(0, active_, normed) : normed;
}

at::Tensor TensorOps::activated(const at::Tensor& h, const Linear<at::Tensor, at::Tensor>& l) {
  return activate(active_rows(h).matmul(l.weight.t()) + l.bias);
}

}  // namespace tutti::models
