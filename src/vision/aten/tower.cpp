#include "vision/aten/tower.h"

#include <ATen/ATen.h>

#include <cmath>

#include "vision/windows.h"

namespace tutti::vision {
namespace {

at::Tensor index_of(const std::vector<int>& v) {
  return at::tensor(std::vector<int64_t>(v.begin(), v.end()), at::kLong);
}

}  // namespace

TowerWeights tower_weights(const VisionWeights& stored, at::ScalarType dtype) {
  TowerWeights out;
  for (const VisionTensor& t : stored.tensors) {
    out[t.shape.name] = at::tensor(t.data.floats()).view(t.shape.shape).to(dtype);
  }
  return out;
}

TowerPass::TowerPass(const VisionConfig& config, const TowerWeights& weights, const Grid& grid)
    : config_(config), weights_(weights) {
  const int merge = config.preprocessing.merge, in_cell = merge * merge;
  const Windows windows = windows_of(grid, merge, config.window);
  order_ = index_of(windows.order);
  back_ = index_of(inverse_order(windows.order));
  // Windows by size, so that those of a size are one product.
  std::map<int, std::vector<int64_t>> by_size;
  int64_t first = 0;
  for (const int cells : windows.sizes) {
    const int64_t patches = int64_t(cells) * in_cell;
    for (int64_t i = 0; i < patches; ++i) by_size[int(patches)].push_back(first + i);
    first += patches;
  }
  for (const auto& [patches, places] : by_size) {
    windows_.push_back({at::tensor(places, at::kLong).view({-1, patches})});
  }
  // Window order keeps frames apart.
  frames_.push_back({at::arange(int64_t(grid.patches()), at::kLong).view({grid.t, -1})});

  const std::vector<float> angles = patch_angles(patch_places(grid, merge), config.head_dim());
  const int64_t half = config.head_dim() / 2;
  const at::Tensor angle =
      at::tensor(angles).view({-1, in_cell, half}).index_select(0, order_).view({-1, 1, half});
  cos_ = at::cat({angle.cos(), angle.cos()}, -1);
  sin_ = at::cat({angle.sin(), angle.sin()}, -1);
}

const at::Tensor& TowerPass::weight(const std::string& name) const { return weights_.at(name); }

at::Tensor TowerPass::linear(const at::Tensor& x, const std::string& name) const {
  return at::linear(x, weight(name + ".weight"), weight(name + ".bias"));
}

at::Tensor TowerPass::norm(const at::Tensor& x, const std::string& name) const {
  return x * (x.pow(2).mean(-1, true) + double(VisionConfig::kNormEps)).rsqrt() * weight(name);
}

void TowerPass::embed(const at::Tensor& values) {
  pictures_ = int(values.size(0));
  const at::Tensor& w = weight("visual.patch_embed.proj.weight");
  const int64_t in_cell = int64_t(config_.preprocessing.merge) * config_.preprocessing.merge;
  const at::Tensor x = at::matmul(values.to(w.dtype()), w.view({w.size(0), -1}).t());
  h_ = x.view({pictures_, -1, in_cell, config_.hidden})
           .index_select(1, order_)
           .view({pictures_, -1, config_.hidden});
}

// Pairs (i, i + half) of every head; x is [pictures, patches, heads, head_dim].
at::Tensor TowerPass::rotate(const at::Tensor& x) const {
  const int64_t half = config_.head_dim() / 2;
  const at::Tensor turned = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  return x * cos_.to(x.dtype()) + turned * sin_.to(x.dtype());
}

at::Tensor TowerPass::attention(const at::Tensor& x, const std::string& name, bool full) const {
  const int64_t heads = config_.heads, d = config_.head_dim(), patches = x.size(1);
  const at::Tensor qkv = linear(x, name + ".qkv").view({pictures_, patches, 3, heads, d});
  const at::Tensor q = rotate(qkv.select(2, 0)), k = rotate(qkv.select(2, 1)), v = qkv.select(2, 2);
  std::vector<at::Tensor> outs, places;
  for (const Segments& s : full ? frames_ : windows_) {
    const int64_t windows = s.places.size(0), n = s.places.size(1);
    const at::Tensor flat = s.places.reshape({-1});
    // [pictures, windows, heads, n, d]
    const auto cut = [&](const at::Tensor& t) {
      return t.index_select(1, flat).view({pictures_, windows, n, heads, d}).transpose(2, 3);
    };
    const at::Tensor scores = at::matmul(cut(q), cut(k).transpose(-1, -2)) / std::sqrt(double(d));
    outs.push_back(at::matmul(scores.softmax(-1), cut(v))
                       .transpose(2, 3)
                       .reshape({pictures_, windows * n, heads * d}));
    places.push_back(flat);
  }
  at::Tensor out = outs.front();
  if (outs.size() > 1) out = at::cat(outs, 1).index_select(1, at::cat(places).argsort());
  // One size of window: its places ascend already.
  return linear(out, name + ".proj");
}

void TowerPass::block(int index) {
  const std::string at = "visual.blocks." + std::to_string(index) + ".";
  h_ = h_ + attention(norm(h_, at + "norm1.weight"), at + "attn", config_.full[size_t(index)]);
  const at::Tensor x = norm(h_, at + "norm2.weight");
  const at::Tensor gated =
      at::silu(linear(x, at + "mlp.gate_proj")) * linear(x, at + "mlp.up_proj");
  h_ = h_ + linear(gated, at + "mlp.down_proj");
}

at::Tensor TowerPass::merge() const {
  const at::Tensor x =
      norm(h_, "visual.merger.ln_q.weight").view({pictures_, -1, config_.merged()});
  const at::Tensor y = linear(at::gelu(linear(x, "visual.merger.mlp.0")), "visual.merger.mlp.2");
  return y.index_select(1, back_);
}

at::Tensor TowerPass::project(const at::Tensor& merged) const {
  return linear(at::silu(linear(merged, "img_projector.linear_1")), "img_projector.linear_2");
}

at::Tensor tower_features(const VisionConfig& config, const TowerWeights& weights, const Grid& grid,
                          const at::Tensor& values) {
  TowerPass pass(config, weights, grid);
  pass.embed(values);
  for (int b = 0; b < config.depth; ++b) pass.block(b);
  return pass.project(pass.merge());
}

}  // namespace tutti::vision
