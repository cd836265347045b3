#include "train/aten/parameters.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "base/draws.h"
#include "base/hash.h"
#include "models/weight_names.h"

namespace tutti::train {

// By Box and Muller.
at::Tensor normal_tensor(uint64_t seed, const std::string& name, at::IntArrayRef shape,
                         double deviation) {
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kInitialWeights;
  const uint64_t hash = xxh64(std::as_bytes(std::span(name)));
  key.path = uint32_t(hash >> 32);
  key.position = uint32_t(hash);
  at::Tensor out = at::empty(shape, at::kFloat);
  auto* values = out.data_ptr<float>();
  const int64_t n = out.numel();
  for (int64_t i = 0; i < n; i += 2) {
    const PhiloxBlock words = draw_block(key, uint32_t(i / 2));
    const double radius = std::sqrt(-2 * std::log(1 - uniform53(words[0], words[1])));
    const double angle = 2 * std::numbers::pi * uniform53(words[2], words[3]);
    values[i] = float(deviation * radius * std::cos(angle));
    if (i + 1 < n) values[i + 1] = float(deviation * radius * std::sin(angle));
  }
  return out;
}

namespace {

void add_xlnet_parts(const models::Config& c, models::LayerWeights<at::Tensor, at::Tensor>& l) {
  const int64_t width = int64_t(c.heads) * c.head_dim;
  const auto zeros = [](int64_t n) { return at::zeros({n}, at::kFloat); };
  l.attn_norm_bias = zeros(c.hidden);
  l.ffn_norm_bias = zeros(c.hidden);
  l.up.bias = zeros(c.intermediate);
  l.down.bias = zeros(c.hidden);
  l.relative = at::empty({width, c.hidden}, at::kFloat);
  l.content_bias = zeros(width);
  l.position_bias = zeros(width);
  l.segment_bias = zeros(width);
  l.segment_keys = zeros(2 * width);
}

// Vectors that start from noise, as in the published network: a query stream of zeros would see no
// difference between positions at first.
bool starts_as_noise(const std::string& name, const models::TensorLayout& layout) {
  if (layout.mask.empty()) return false;
  for (const std::string& part :
       {layout.content_bias, layout.position_bias, layout.segment_bias, layout.segment_keys}) {
    if (name.ends_with("." + part)) return true;
  }
  return name == layout.mask;
}

}  // namespace

models::TensorWeights initial_weights(const ShapedConfig& shaped, const ModelRecipe& recipe,
                                      uint64_t seed) {
  const models::Config& c = shaped.config;
  const int64_t query = int64_t(c.heads) * c.head_dim, key = int64_t(c.kv_heads) * c.head_dim;
  models::TensorWeights w;
  w.layers.resize(size_t(c.layers));
  const auto ones = [](int64_t n) { return at::ones({n}, at::kFloat); };
  // Shapes first: every matrix empty, every norm 1.
  const auto matrix = [](int64_t out, int64_t in) { return at::empty({out, in}, at::kFloat); };
  w.embedding =
      c.embedding_width > 0 ? matrix(c.hidden, c.embedding_width) : matrix(c.vocab, c.hidden);
  w.output_norm = ones(c.hidden);
  if (!c.tied_head) w.head = matrix(c.head_rows(), c.hidden);
  const bool bias = shaped.layout.qkv_bias == models::Presence::kRequired;
  if (c.relative) {
    w.output_norm = at::Tensor();
    w.head_bias = at::zeros({c.vocab}, at::kFloat);
    w.mask = at::zeros({c.hidden}, at::kFloat);
  }
  const auto projection = [&](int64_t out) {
    return models::Linear<at::Tensor, at::Tensor>{
        matrix(out, c.hidden), bias ? at::zeros({out}, at::kFloat) : at::Tensor()};
  };
  for (auto& l : w.layers) {
    l.attn_norm = ones(c.hidden);
    l.q = projection(query);
    l.k = projection(key);
    l.v = projection(key);
    if (shaped.layout.qk_norm) l.q_norm = ones(c.head_dim), l.k_norm = ones(c.head_dim);
    l.o.weight = matrix(c.hidden, query);
    l.ffn_norm = ones(c.hidden);
    if (!c.relative) l.gate.weight = matrix(c.intermediate, c.hidden);
    l.up.weight = matrix(c.intermediate, c.hidden);
    l.down.weight = matrix(c.hidden, c.intermediate);
    if (c.relative) add_xlnet_parts(c, l);
  }
  const double residual = recipe.deviation / std::sqrt(2.0 * c.layers);
  models::for_each_tensor(w, shaped.layout, [&](const std::string& name, at::Tensor& t) {
    if (!t.defined() || (t.dim() < 2 && !starts_as_noise(name, shaped.layout))) return;
    bool into_residual = false;
    for (const auto& l : w.layers)
      into_residual = into_residual || t.is_same(l.o.weight) || t.is_same(l.down.weight);
    t = normal_tensor(seed, name, t.sizes(), into_residual ? residual : recipe.deviation);
  });
  return w;
}

std::vector<Parameter> parameters_of(const models::TensorWeights& weights,
                                     const models::TensorLayout& layout) {
  std::vector<Parameter> out;
  models::for_each_tensor(weights, layout, [&](const std::string& name, const at::Tensor& t) {
    if (t.defined()) out.push_back({name, t, t.dim() > 1});
  });
  return out;
}

}  // namespace tutti::train
