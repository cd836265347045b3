// For tests: XLNet row by row, in double, from the formulas of sheet 45; what a row sees is a
// matrix here. No kernels, runs, slots, tables of distances.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "models/checkpoint.h"

namespace tutti::models {

class XlnetOracle {
 public:
  using Numbers = std::vector<double>;
  struct Row {
    int position = 0;
    int32_t token = -1;  // -1: the mask vector
    int segment = 0;
  };

  explicit XlnetOracle(const Checkpoint& checkpoint) : c_(checkpoint.config()) {
    const auto doubles = [](const StoredTensor& t) {
      if (t.empty()) return Numbers();
      const std::vector<float> f = t.floats();
      return Numbers(f.begin(), f.end());
    };
    w_ = convert_weights<Weights<Numbers, Numbers>>(checkpoint.weights(), doubles, doubles);
  }

  // Logits of every row. sees[i][j]: whether row i reads the keys and values of row j.
  std::vector<Numbers> forward(const std::vector<Row>& rows,
                               const std::vector<std::vector<bool>>& sees) const {
    const size_t n = rows.size(), hidden = size_t(c_.hidden);
    std::vector<Numbers> h;
    for (const Row& row : rows) {
      const Numbers& from = row.token < 0 ? w_.mask : w_.embedding;
      const auto at = from.begin() + (row.token < 0 ? 0 : std::ptrdiff_t(row.token) * c_.hidden);
      h.emplace_back(at, at + std::ptrdiff_t(hidden));
    }
    for (const auto& l : w_.layers) {
      std::vector<Numbers> q, k, v, next;
      for (const Numbers& x : h) {
        q.push_back(times(l.q.weight, x));
        k.push_back(times(l.k.weight, x));
        v.push_back(times(l.v.weight, x));
      }
      for (size_t i = 0; i < n; ++i) {
        Numbers x = plus(h[i], times(l.o.weight, attended(l, rows, q[i], k, v, sees[i], i)));
        x = normed(x, l.attn_norm, l.attn_norm_bias);
        Numbers inner = plus(times(l.up.weight, x), l.up.bias);
        for (double& a : inner) a = 0.5 * a * std::erfc(-a / std::sqrt(2.0));
        x = plus(x, plus(times(l.down.weight, inner), l.down.bias));
        next.push_back(normed(x, l.ffn_norm, l.ffn_norm_bias));
      }
      h = std::move(next);
    }
    std::vector<Numbers> logits;
    for (const Numbers& x : h)
      logits.push_back(plus(times(w_.head.empty() ? w_.embedding : w_.head, x), w_.head_bias));
    return logits;
  }

 private:
  using Layer = LayerWeights<Numbers, Numbers>;

  static Numbers times(const Numbers& weight, const Numbers& x) {
    Numbers y(weight.size() / x.size(), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += weight[o * x.size() + i] * x[i];
    }
    return y;
  }
  static Numbers plus(Numbers x, const Numbers& y) {
    for (size_t i = 0; i < y.size(); ++i) x[i] += y[i];
    return x;
  }
  Numbers normed(const Numbers& x, const Numbers& weight, const Numbers& bias) const {
    double mean = 0, variance = 0;
    for (const double a : x) mean += a / double(x.size());
    for (const double a : x) variance += (a - mean) * (a - mean) / double(x.size());
    Numbers y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = (x[i] - mean) / std::sqrt(variance + double(c_.norm_eps)) * weight[i] + bias[i];
    }
    return y;
  }
  Numbers encoding(int delta) const {
    if (c_.clamp_distance > 0) delta = std::clamp(delta, -c_.clamp_distance, c_.clamp_distance);
    const int half = c_.hidden / 2;
    Numbers r(size_t(c_.hidden));
    for (int t = 0; t < half; ++t) {
      const double angle = delta * std::pow(10000.0, -2.0 * t / c_.hidden);
      r[size_t(t)] = std::sin(angle);
      r[size_t(half + t)] = std::cos(angle);
    }
    return r;
  }
  Numbers attended(const Layer& l, const std::vector<Row>& rows, const Numbers& q,
                   const std::vector<Numbers>& k, const std::vector<Numbers>& v,
                   const std::vector<bool>& sees, size_t i) const {
    const size_t d = size_t(c_.head_dim), width = q.size();
    std::vector<Numbers> scores(rows.size());  // by key, then head
    for (size_t j = 0; j < rows.size(); ++j) {
      if (!sees[j]) continue;
      const Numbers kr = times(l.relative, encoding(rows[i].position - rows[j].position));
      const size_t kind = rows[i].segment == rows[j].segment ? 0 : width;
      for (size_t at = 0; at < width; at += d) {
        double score = 0;
        for (size_t x = at; x < at + d; ++x) {
          score += (q[x] + l.content_bias[x]) * k[j][x] + (q[x] + l.position_bias[x]) * kr[x] +
                   (q[x] + l.segment_bias[x]) * l.segment_keys[kind + x];
        }
        scores[j].push_back(score / std::sqrt(double(d)));
      }
    }
    Numbers out(width, 0.0);
    for (size_t head = 0; head < width / d; ++head) {
      double top = -HUGE_VAL, sum = 0;
      for (const Numbers& s : scores) top = s.empty() ? top : std::max(top, s[head]);
      for (const Numbers& s : scores) sum += s.empty() ? 0 : std::exp(s[head] - top);
      for (size_t j = 0; j < rows.size(); ++j) {
        if (scores[j].empty()) continue;
        const double p = std::exp(scores[j][head] - top) / sum;
        for (size_t x = head * d; x < (head + 1) * d; ++x) out[x] += p * v[j][x];
      }
    }
    return out;
  }

  const Config& c_;
  Weights<Numbers, Numbers> w_;
};

}  // namespace tutti::models
