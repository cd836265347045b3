#include "train/aten/filter_training.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/draws.h"
#include "base/error.h"

namespace tutti::train {
namespace {

struct Parts {
  at::Tensor probabilities, right;  // [records, block]
};

// Records in an order drawn from the seed: the first 80 % train, the next 10 % choose, the last 10
// % report.
std::array<Parts, 3> split(const FilterTrainingRequest& r) {
  const size_t n = r.probabilities.size() / size_t(r.block);
  std::vector<int64_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = int64_t(i);
  DrawKey key;
  key.seed = r.seed;
  key.purpose = Purpose::kDataShuffle;
  Draws(key).shuffle(order);
  const auto tensor = [&](const std::vector<float>& v) {
    return at::from_blob(const_cast<float*>(v.data()), {int64_t(n), r.block}, at::kFloat)
        .index_select(0, at::tensor(order));
  };
  const at::Tensor c = tensor(r.probabilities), y = tensor(r.right);
  const int64_t first = int64_t(n) * 8 / 10, second = int64_t(n) * 9 / 10;
  const auto part = [&](int64_t begin, int64_t end) {
    return Parts{c.slice(0, begin, end), y.slice(0, begin, end)};
  };
  return {part(0, first), part(first, second), part(second, int64_t(n))};
}

at::Tensor drawn(const FilterTrainingRequest& r, uint32_t which, std::vector<int64_t> shape) {
  DrawKey key;
  key.seed = r.seed;
  key.purpose = Purpose::kInitialWeights;
  key.path = which;
  Draws draws(key);
  const float bound = 1.0f / std::sqrt(float(r.block));
  std::vector<float> values;
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  for (int64_t i = 0; i < n; ++i) values.push_back(draws.uniform(-bound, bound));
  return at::tensor(values).view(shape).requires_grad_();
}

std::vector<float> floats(const at::Tensor& t) {
  const at::Tensor flat = t.detach().contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

}  // namespace

FilterTrainingResult train_filter(const FilterTrainingRequest& r) {
  if (r.block < 1 || r.probabilities.size() / size_t(r.block) < 20) {
    throw Error(ErrorKind::kUsage,
                "filter: has fewer than 20 records to learn from; decode more problems");
  }
  at::set_num_threads(r.threads);
  const auto [train, validation, test] = split(r);
  at::Tensor w1, b1, w2, b2;
  std::vector<at::Tensor> parameters;
  if (r.apart) {
    w1 = drawn(r, 0, {r.block});
    b1 = drawn(r, 1, {r.block});
    parameters = {w1, b1};
  } else {
    w1 = drawn(r, 0, {r.block, r.block});
    b1 = drawn(r, 1, {r.block});
    w2 = drawn(r, 2, {r.block, r.block});
    b2 = drawn(r, 3, {r.block});
    parameters = {w1, b1, w2, b2};
  }
  const auto output = [&](const at::Tensor& c) {
    if (r.apart) return c * w1 + b1;
    at::Tensor hidden = at::linear(c, w1, b1);
    if (r.relu) hidden = hidden.relu();
    return at::linear(hidden, w2, b2);
  };
  const auto loss_of = [&](const Parts& p) {
    return at::binary_cross_entropy_with_logits(output(p.probabilities), p.right);
  };
  const auto judge = [&](const Parts& p, FilterEpoch& e) {
    const at::NoGradGuard no_gradients;
    e.validation_loss = loss_of(p).item<double>();
    const at::Tensor accepted = output(p.probabilities).sigmoid() > 0.9, right = p.right > 0.5;
    const double yes = accepted.sum().item<double>(), no = (~accepted).sum().item<double>();
    e.false_positives = yes > 0 ? (accepted & ~right).sum().item<double>() / yes : 0;
    e.false_negatives = no > 0 ? (~accepted & right).sum().item<double>() / no : 0;
  };
  FilterTrainingResult result;
  torch::optim::AdamW optimiser(parameters, torch::optim::AdamWOptions(r.learning_rate));
  std::vector<at::Tensor> kept;  // of the epoch with the least validation loss
  const int every = std::max(1, r.epochs / 200);
  for (int epoch = 1; epoch <= r.epochs; ++epoch) {
    optimiser.zero_grad();
    const at::Tensor loss = loss_of(train);
    loss.backward();
    optimiser.step();
    if (epoch % every != 0 && epoch != r.epochs) continue;
    FilterEpoch e;
    e.epoch = epoch;
    e.loss = loss.item<double>();
    judge(validation, e);
    const bool better = std::ranges::none_of(result.epochs, [&](const FilterEpoch& before) {
      return before.validation_loss <= e.validation_loss;
    });
    if (better) {
      kept.clear();
      for (const at::Tensor& p : parameters) kept.push_back(p.detach().clone());
    }
    result.epochs.push_back(e);
  }
  const at::NoGradGuard no_gradients;
  for (size_t i = 0; i < kept.size(); ++i) parameters[i].copy_(kept[i]);
  result.test = result.epochs.back();
  judge(test, result.test);
  if (r.apart) {
    result.w1 = floats(at::diag(w1.detach()));
    result.b1 = floats(b1);
    result.w2 = floats(at::eye(r.block));
    result.b2.assign(size_t(r.block), 0.0f);
  } else {
    result.w1 = floats(w1);
    result.b1 = floats(b1);
    result.w2 = floats(w2);
    result.b2 = floats(b2);
  }
  return result;
}

}  // namespace tutti::train
