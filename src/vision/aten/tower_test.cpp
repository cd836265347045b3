// The tower against loops over its definition in double, written out here; its network in an
// engine.
#include "vision/aten/tower.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/draws.h"
#include "base/pool.h"
#include "vision/windows.h"

namespace tutti::vision {
namespace {

VisionConfig small_config() {
  VisionConfig c;
  c.depth = 3;
  c.hidden = 32;
  c.intermediate = 24;
  c.heads = 4;
  c.window = 4;
  c.full = {false, true, false};
  c.out_hidden = 20;
  c.text_hidden = 16;
  return c;
}

TowerWeights random_weights(const VisionConfig& c) {
  TowerWeights w;
  at::manual_seed(3);
  for (const TensorShape& t : vision_tensors(c)) {
    const bool norm =
        t.name.find("norm") != std::string::npos || t.name.find("ln_q") != std::string::npos;
    const at::Tensor noise = at::randn(t.shape, at::kDouble);
    w[t.name] = norm                  ? 1 + 0.3 * noise
                : t.shape.size() == 1 ? 0.3 * noise
                                      : noise / std::sqrt(double(noise[0].numel()));
  }
  return w;
}

// Everything in raster-of-cells order: no permutation; a windowed block is full attention under a
// mask.
class Naive {
 public:
  Naive(const VisionConfig& c, const TowerWeights& w, const Grid& g) : c_(c), w_(w), g_(g) {}

  at::Tensor run(const at::Tensor& values) {
    at::Tensor h = values.matmul(w("visual.patch_embed.proj.weight").view({c_.hidden, -1}).t());
    for (int b = 0; b < c_.depth; ++b) {
      const std::string at = "visual.blocks." + std::to_string(b) + ".";
      h = h + attention(rms(h, at + "norm1.weight"), at + "attn", c_.full[size_t(b)]);
      const at::Tensor x = rms(h, at + "norm2.weight"), gate = linear(x, at + "mlp.gate_proj");
      h = h +
          linear(gate / (1 + (-gate).exp()) * linear(x, at + "mlp.up_proj"), at + "mlp.down_proj");
    }
    const at::Tensor merged = rms(h, "visual.merger.ln_q.weight").reshape({-1, 4 * c_.hidden});
    const at::Tensor y = linear(merged, "visual.merger.mlp.0");
    const at::Tensor z = linear(0.5 * y * (1 + (y / std::sqrt(2.0)).erf()), "visual.merger.mlp.2");
    const at::Tensor p = linear(z, "img_projector.linear_1");
    return linear(p / (1 + (-p).exp()), "img_projector.linear_2");
  }

 private:
  const at::Tensor& w(const std::string& name) const { return w_.at(name); }
  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    return x.matmul(w(name + ".weight").t()) + w(name + ".bias");
  }
  at::Tensor rms(const at::Tensor& x, const std::string& name) const {
    return x / (x.pow(2).mean(-1, true) + 1e-6).sqrt() * w(name);
  }
  struct At {
    int t, row, column;
  };
  At at_of(int patch) const {
    const int per_frame = g_.h * g_.w, cell = patch % per_frame / 4, inner = patch % 4;
    return {patch / per_frame, cell / (g_.w / 2) * 2 + inner / 2,
            cell % (g_.w / 2) * 2 + inner % 2};
  }
  at::Tensor attention(const at::Tensor& x, const std::string& name, bool full) const {
    const int n = int(x.size(0)), d = c_.head_dim(), quarter = d / 4;
    const at::Tensor qkv = linear(x, name + ".qkv").contiguous();
    const double* v = qkv.data_ptr<double>();
    at::Tensor out = at::zeros({n, c_.hidden}, at::kDouble);
    auto* o = out.data_ptr<double>();
    const auto rotated = [&](int patch, int part, int head, std::vector<double>& to) {
      const double* from = v + (patch * 3 + part) * c_.hidden + head * d;
      const At p = at_of(patch);
      for (int i = 0; i < d / 2; ++i) {
        const double f = std::pow(10000.0, -2.0 * (i % quarter) / (d / 2.0));
        const double angle = (i < quarter ? p.row : p.column) * f;
        to[size_t(i)] = from[i] * std::cos(angle) - from[i + d / 2] * std::sin(angle);
        to[size_t(i + d / 2)] = from[i + d / 2] * std::cos(angle) + from[i] * std::sin(angle);
      }
    };
    std::vector<double> q(static_cast<size_t>(d)), k(static_cast<size_t>(d)),
        score(static_cast<size_t>(n));
    for (int head = 0; head < c_.heads; ++head) {
      for (int i = 0; i < n; ++i) {
        rotated(i, 0, head, q);
        const At a = at_of(i);
        double sum = 0;
        for (int j = 0; j < n; ++j) {
          const At b = at_of(j);
          const int side = 2 * c_.window;
          const bool sees =
              a.t == b.t &&
              (full || (a.row / side == b.row / side && a.column / side == b.column / side));
          rotated(j, 1, head, k);
          double dot = 0;
          for (int e = 0; e < d; ++e) dot += q[size_t(e)] * k[size_t(e)];
          score[size_t(j)] = sees ? std::exp(dot / std::sqrt(double(d))) : 0;
          sum += score[size_t(j)];
        }
        for (int j = 0; j < n; ++j) {
          for (int e = 0; e < d; ++e) {
            o[i * c_.hidden + head * d + e] +=
                score[size_t(j)] / sum * v[(j * 3 + 2) * c_.hidden + head * d + e];
          }
        }
      }
    }
    return linear(out, name + ".proj");
  }

  const VisionConfig& c_;
  const TowerWeights& w_;
  Grid g_;
};

TEST(Tower, IsTheLoopsOfItsDefinition) {
  const VisionConfig config = small_config();
  const TowerWeights weights = random_weights(config);
  for (const Grid& grid : {Grid{1, 2, 2}, Grid{1, 2, 6}, Grid{1, 8, 8}, Grid{1, 10, 6},
                           Grid{1, 18, 10}, Grid{2, 6, 10}}) {
    const at::Tensor values =
        at::randn({grid.patches(), config.preprocessing.patch_values()}, at::kDouble);
    const at::Tensor ours = tower_features(config, weights, grid, values.unsqueeze(0))[0];
    const at::Tensor naive = Naive(config, weights, grid).run(values);
    const double error =
        (ours - naive).abs().max().item<double>() / naive.abs().max().item<double>();
    // Angles are fp32 in the tower.
    EXPECT_LE(error, 1e-6) << grid.t << ' ' << grid.h << ' ' << grid.w;
  }
}

TEST(Tower, PicturesOfOneGridDoNotMeet) {
  const VisionConfig config = small_config();
  const TowerWeights weights = random_weights(config);
  const Grid grid{1, 6, 10};
  const at::Tensor values =
      at::randn({3, grid.patches(), config.preprocessing.patch_values()}, at::kDouble);
  const at::Tensor together = tower_features(config, weights, grid, values);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor alone = tower_features(config, weights, grid, values.narrow(0, i, 1))[0];
    EXPECT_LE((together[i] - alone).abs().max().item<double>(), 1e-12);
  }
}

TEST(Tower, GradientsAreThoseOfDifferences) {
  VisionConfig config = small_config();
  config.depth = 2;
  config.full = {false, true};
  TowerWeights weights = random_weights(config);
  const Grid grid{1, 10, 2};
  const at::Tensor values =
      at::randn({1, grid.patches(), config.preprocessing.patch_values()}, at::kDouble);
  const at::Tensor direction = at::randn({1, grid.cells(2), config.text_hidden}, at::kDouble);
  const auto loss = [&] {
    return (tower_features(config, weights, grid, values) * direction).sum();
  };
  for (auto& [name, w] : weights) w.set_requires_grad(true);
  loss().backward();
  Draws draws(4);
  for (auto& [name, w] : weights) {
    const at::Tensor gradient = w.grad().reshape({-1});
    const int64_t i = draws.below(int(w.numel()));
    const at::Tensor flat = w.detach().view({-1});
    const double x = flat[i].item<double>(), step = 1e-5;
    flat[i].fill_(x + step);
    const double above = loss().item<double>();
    flat[i].fill_(x - step);
    const double below = loss().item<double>();
    flat[i].fill_(x);
    const double scale = 1e-6 * (1 + gradient.abs().max().item<double>());
    EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * step), scale) << name;
  }
}

}  // namespace
}  // namespace tutti::vision
