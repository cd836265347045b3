#include "train/aten/forward_times.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "models/aten/tensor_ops.h"
#include "models/weight_names.h"
#include "tensor/kv.h"
#include "train/aten/device.h"
#include "train/aten/state.h"
#include "train/sequence.h"

namespace tutti::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Drawn on the device: a billion numbers of the host's generator would take longer than the
// measurement.
models::TensorWeights drawn_weights(const ShapedConfig& shaped, at::TensorOptions options) {
  const models::Config& c = shaped.config;
  const auto matrix = [&](int64_t out, int64_t in) {
    return at::randn({out, in}, options).mul_(1 / std::sqrt(double(in)));
  };
  const int64_t query = int64_t(c.heads) * c.head_dim, key = int64_t(c.kv_heads) * c.head_dim;
  models::TensorWeights w;
  w.embedding = matrix(c.vocab, c.hidden);
  w.output_norm = at::ones({c.hidden}, options);
  if (!c.tied_head) w.head = matrix(c.vocab, c.hidden);
  w.layers.resize(size_t(c.layers));
  for (auto& l : w.layers) {
    l.attn_norm = at::ones({c.hidden}, options);
    l.ffn_norm = at::ones({c.hidden}, options);
    l.q.weight = matrix(query, c.hidden);
    l.k.weight = matrix(key, c.hidden);
    l.v.weight = matrix(key, c.hidden);
    l.o.weight = matrix(c.hidden, query);
    l.gate.weight = matrix(c.intermediate, c.hidden);
    l.up.weight = matrix(c.intermediate, c.hidden);
    l.down.weight = matrix(c.hidden, c.intermediate);
  }
  return w;
}

void count(const models::TensorWeights& weights, const ShapedConfig& shaped,
           ForwardTimesResult& result) {
  models::for_each_tensor(weights, shaped.layout, [&](const std::string&, const at::Tensor& t) {
    if (!t.defined()) return;
    result.parameters += t.numel();
    result.weight_bytes += double(t.nbytes());
  });
  // Of an embedding with a head of its own only the rows' vectors are read.
  if (weights.head.defined()) result.weight_bytes -= double(weights.embedding.nbytes());
}

double copy_bandwidth(at::Device device) {
  const int64_t floats = int64_t(1) << 28;
  const at::Tensor from = at::randn({floats}, at::TensorOptions(at::kFloat).device(device));
  at::Tensor to = at::empty_like(from);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    constexpr int kCopies = 8;
    const auto start = Clock::now();
    for (int j = 0; j < kCopies; ++j) to.copy_(from);
    to[0].item<float>();  // waits for the device
    best = std::max(best, kCopies * 2.0 * double(from.nbytes()) / seconds_since(start));
  }
  return best;
}

// Rows [first, first + n) of the sequence, whose earlier rows' keys and values are kept.
models::Batch rows_of(const models::Batch& whole, int first, int n) {
  std::vector<int> rows(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), first);
  models::Batch part = part_of(whole, rows);
  part.head_rows.resize(size_t(n));
  std::iota(part.head_rows.begin(), part.head_rows.end(), 0);
  return part;
}

}  // namespace

ForwardTimesResult forward_times(const ForwardTimesRequest& request) {
  at::set_num_threads(request.threads);
  const at::NoGradGuard no_gradients;
  const at::Device device = training_device(request.device);
  const at::ScalarType type = request.bf16 ? at::kBFloat16 : at::kFloat;
  const ShapedConfig shaped = shaped_config(request.shape);
  const models::Config& config = shaped.config;
  const models::TensorWeights weights =
      drawn_weights(shaped, at::TensorOptions(type).device(device));
  ForwardTimesResult result;
  count(weights, shaped, result);
  result.machine = machine_text(device);
  result.copy_bandwidth = copy_bandwidth(device);

  const int most = *std::max_element(request.rows.begin(), request.rows.end());
  const int length = request.depth + most;
  std::vector<int32_t> tokens;
  for (int i = 0; i < length; ++i) tokens.push_back(int32_t(i * 7919 % config.vocab));
  const std::vector<Sequence> sequence{plain_sequence(config, tokens)};
  const models::Batch whole = plan_batch(config, sequence);
  const int pages = (length + tensor::kPageSlots - 1) / tensor::kPageSlots;
  models::TensorKv kv(config, pages, type, device);
  if (request.depth > 0) tensor_states(config, weights, rows_of(whole, 0, request.depth), kv);

  result.seconds.resize(request.rows.size());
  for (int repeat = -2; repeat < request.repeats; ++repeat) {  // two warm up
    for (size_t i = 0; i < request.rows.size(); ++i) {
      const models::Batch batch = rows_of(whole, request.depth, request.rows[i]);
      const auto start = Clock::now();
      const at::Tensor picked =
          models::tensor_forward(config, weights, batch, kv).logits.argmax(-1).cpu();
      if (repeat >= 0) result.seconds[i].push_back(seconds_since(start));
    }
  }
  return result;
}

}  // namespace tutti::train
