// For tests: the engine's semantics once more, as simply as can be. A plain dense transformer in
// double; a Context is a list of slots, a slot its keys and values; what a row sees is a list of
// slots. No pages, runs, recipes or kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "engine/rows.h"
#include "models/checkpoint.h"

namespace tutti::engine {

class DenseOracle {
 public:
  using Numbers = std::vector<double>;
  struct Slot {
    int position = 0;
    int enter = 0, leave = 0;   // has keys on layers [enter, leave)
    std::vector<Numbers> k, v;  // per layer [kv_heads * head_dim]
  };
  using Slots = std::vector<std::shared_ptr<const Slot>>;
  struct RowResult {
    Numbers logits;
    std::vector<Numbers>
        states;  // at the input of layer 0.. and after the last; empty before the row has one
    // [layers][what the row sees, in View order]: share of its attention, mean over heads; of
    // active rows.
    std::vector<Numbers> shares;
  };

  explicit DenseOracle(const models::Checkpoint& checkpoint) : c_(checkpoint.config()) {
    const auto doubles = [](const models::StoredTensor& t) {
      if (t.empty()) return Numbers();
      const std::vector<float> f = t.floats();
      return Numbers(f.begin(), f.end());
    };
    w_ = models::convert_weights<models::Weights<Numbers, Numbers>>(checkpoint.weights(), doubles,
                                                                    doubles);
  }

  // What the slots of one part's rows are after this forward, in `made` (by row), and the rows'
  // results. `context` and `prefixes` are as before the query.
  std::vector<RowResult> forward(const Slots& context, const std::vector<Slots>& prefixes,
                                 const Rows& rows, Slots& made) const {
    const int count = int(rows.rows.size());
    std::vector<std::shared_ptr<Slot>> fresh;
    std::vector<RowResult> results(static_cast<size_t>(count));
    std::vector<Numbers> h(static_cast<size_t>(count));
    for (const Row& row : rows.rows) {
      auto slot = std::make_shared<Slot>();
      slot->position = row.position.t;
      slot->enter = std::clamp(row.active.enter, 0, c_.layers);
      slot->leave = std::clamp(row.active.leave, slot->enter, c_.layers);
      slot->k.resize(size_t(c_.layers));
      slot->v.resize(size_t(c_.layers));
      fresh.push_back(std::move(slot));
    }
    std::vector<std::vector<Seen>> sees;
    for (int i = 0; i < count; ++i) {
      h[size_t(i)] = embedded(rows.rows[size_t(i)].in);
      sees.push_back(seen(context, prefixes, fresh, rows, i));
    }
    for (int l = 0; l <= c_.layers; ++l) {
      for (int i = 0; i < count; ++i) {
        const RowInput& in = rows.rows[size_t(i)].in;
        if (in.kind == RowInput::kFromRow && fresh[size_t(i)]->enter == l) {
          h[size_t(i)] = mapped(in, h[size_t(in.row)]);
        }
      }
      for (int i = 0; i < count; ++i) results[size_t(i)].states.push_back(h[size_t(i)]);
      if (l == c_.layers) break;
      const auto& w = w_.layers[size_t(l)];
      const auto active = [&](int i) {
        return fresh[size_t(i)]->enter <= l && l < fresh[size_t(i)]->leave;
      };
      std::vector<Numbers> q(static_cast<size_t>(count));
      for (int i = 0; i < count; ++i) {
        if (!active(i)) continue;
        Slot& slot = *fresh[size_t(i)];
        const Numbers x = normed(h[size_t(i)], w.attn_norm);
        q[size_t(i)] = heads(times(w.q.weight, x), w.q_norm, l, slot.position);
        slot.k[size_t(l)] = heads(times(w.k.weight, x), w.k_norm, l, slot.position);
        slot.v[size_t(l)] = times(w.v.weight, x);
      }
      for (int i = 0; i < count; ++i) {
        if (!active(i)) continue;
        Numbers shares(sees[size_t(i)].size(), 0.0);
        add(h[size_t(i)],
            maybe_normed(times(w.o.weight, attended(q[size_t(i)], sees[size_t(i)], rows.classes, l,
                                                    fresh[size_t(i)]->position, shares)),
                         w.post_attn_norm));
        results[size_t(i)].shares.push_back(std::move(shares));
        const Numbers x = normed(h[size_t(i)], w.ffn_norm);
        Numbers gate = times(w.gate.weight, x);
        const Numbers up = times(w.up.weight, x);
        for (size_t j = 0; j < gate.size(); ++j) gate[j] = activated(gate[j]) * up[j];
        add(h[size_t(i)], maybe_normed(times(w.down.weight, gate), w.post_ffn_norm));
      }
    }
    for (int i = 0; i < count; ++i) {
      results[size_t(i)].logits =
          times(w_.head.empty() ? w_.embedding : w_.head, normed(h[size_t(i)], w_.output_norm));
    }
    made.assign(fresh.begin(), fresh.end());
    return results;
  }

 private:
  struct Seen {
    std::shared_ptr<const Slot> slot;
    int softmax_class;
  };

  // What row i sees, as rows.h says it. The class order does not matter to sums in double.
  static std::vector<Seen> seen(const Slots& context, const std::vector<Slots>& prefixes,
                                const std::vector<std::shared_ptr<Slot>>& fresh, const Rows& rows,
                                int i) {
    const Row& row = rows.rows[size_t(i)];
    std::vector<Seen> out;
    bool self = false;
    if (row.view == kCausalView) {
      for (const auto& slot : context) out.push_back({slot, 0});
      for (int j = 0; j < i; ++j) out.push_back({fresh[size_t(j)], 0});
    } else {
      for (const Segment& s : rows.views[size_t(row.view)]) {
        if (s.of == Segment::kModelPrefix) {
          for (const auto& slot : prefixes[size_t(s.first)]) out.push_back({slot, s.softmax_class});
          continue;
        }
        const int size = s.of == Segment::kSlots ? int(context.size()) : int(fresh.size());
        for (int j = s.first; j < size && (s.count < 0 || j < s.first + s.count); ++j) {
          if (s.of == Segment::kSlots) {
            out.push_back({context[size_t(j)], s.softmax_class});
          } else if (j != i) {
            if (!s.causal || j < i) out.push_back({fresh[size_t(j)], s.softmax_class});
          } else if (row.sees_self && !self) {
            out.push_back({fresh[size_t(i)], s.softmax_class});
            self = true;
          }
        }
      }
    }
    if (row.sees_self && !self) out.push_back({fresh[size_t(i)], 0});
    return out;
  }

  Numbers embedding_of(int32_t token) const {
    const auto from = w_.embedding.begin() + std::ptrdiff_t(token) * c_.hidden;
    Numbers x(from, from + c_.hidden);
    for (double& a : x) a *= double(c_.embedding_scale);
    return x;
  }
  Numbers embedded(const RowInput& in) const {
    switch (in.kind) {
      case RowInput::kToken:
        return embedding_of(in.token);
      case RowInput::kVector:
        return Numbers(in.vector.begin(), in.vector.end());
      case RowInput::kMix: {
        Numbers x(size_t(c_.hidden), 0.0);
        for (size_t i = 0; i < in.ids.size(); ++i) {
          const Numbers one = embedding_of(in.ids[i]);
          for (size_t j = 0; j < x.size(); ++j) x[j] += double(in.weights[i]) * one[j];
        }
        return x;
      }
      case RowInput::kFromRow:
      case RowInput::kMask:  // two-stream models have an oracle of their own
                             // (models/xlnet_oracle.h)
        break;
    }
    return Numbers();
  }
  static Numbers mapped(const RowInput& in, const Numbers& x) {
    if (!in.map) return x;
    Numbers y = times(Numbers(in.map->weight.begin(), in.map->weight.end()), x);
    for (size_t i = 0; i < in.map->bias.size(); ++i) y[i] += double(in.map->bias[i]);
    return y;
  }

  static Numbers times(const Numbers& weight, const Numbers& x) {
    Numbers y(weight.size() / x.size(), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += weight[o * x.size() + i] * x[i];
    }
    return y;
  }
  Numbers normed(const Numbers& x, const Numbers& weight) const {
    double squares = 0;
    for (const double a : x) squares += a * a;
    const double scale = 1 / std::sqrt(squares / double(x.size()) + double(c_.norm_eps));
    Numbers y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weight[i];
    return y;
  }
  Numbers maybe_normed(Numbers x, const Numbers& weight) const {
    return weight.empty() ? std::move(x) : normed(x, weight);
  }
  static void add(Numbers& x, const Numbers& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  double activated(double x) const {
    if (c_.activation == tensor::Activation::kSilu) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }

  // Norm and rotation of each head.
  Numbers heads(const Numbers& x, const Numbers& norm, int layer, int position) const {
    const auto& frequency = c_.rope_of(layer).inverse_frequency;
    const size_t d = size_t(c_.head_dim), pairs = frequency.size();
    Numbers y;
    for (size_t at = 0; at < x.size(); at += d) {
      Numbers head = maybe_normed(
          Numbers(x.begin() + std::ptrdiff_t(at), x.begin() + std::ptrdiff_t(at + d)), norm);
      for (size_t i = 0; i < pairs; ++i) {
        const double angle = double(position) * double(frequency[i]), a = head[i],
                     b = head[i + pairs];
        head[i] = a * std::cos(angle) - b * std::sin(angle);
        head[i + pairs] = b * std::cos(angle) + a * std::sin(angle);
      }
      y.insert(y.end(), head.begin(), head.end());
    }
    return y;
  }

  // Each class is a softmax at its own temperature; classes are merged by their scaled log-sum-exp.
  Numbers attended(const Numbers& q, const std::vector<Seen>& sees,
                   const std::vector<tensor::SoftmaxClass>& table, int layer, int position,
                   Numbers& shares) const {
    const size_t d = size_t(c_.head_dim), group = size_t(c_.heads / c_.kv_heads);
    Numbers out(q.size(), 0.0);
    for (size_t head = 0; head < size_t(c_.heads); ++head) {
      const size_t kv = head / group * d;
      std::vector<Numbers> means, weights;
      Numbers exponents;
      for (int softmax_class = 0; softmax_class < tensor::kMaxSoftmaxClasses; ++softmax_class) {
        const tensor::SoftmaxClass softmax = size_t(softmax_class) < table.size()
                                                 ? table[size_t(softmax_class)]
                                                 : tensor::SoftmaxClass();
        double sum = 0;
        Numbers mean(d, 0.0), weight(sees.size(), 0.0);
        for (size_t s = 0; s < sees.size(); ++s) {
          const Seen& seen = sees[s];
          const Slot& slot = *seen.slot;
          if (seen.softmax_class != softmax_class || layer < slot.enter || layer >= slot.leave)
            continue;
          if (c_.is_sliding(layer) && slot.position <= position - c_.window) continue;
          double score = 0;
          for (size_t i = 0; i < d; ++i) score += q[head * d + i] * slot.k[size_t(layer)][kv + i];
          const double p =
              std::exp(score * double(c_.attention_scale) * double(softmax.inverse_temperature));
          sum += p;
          weight[s] = p;
          for (size_t i = 0; i < d; ++i) mean[i] += p * slot.v[size_t(layer)][kv + i];
        }
        if (sum == 0) continue;
        for (double& a : mean) a /= sum;
        for (double& a : weight) a /= sum;
        means.push_back(std::move(mean));
        weights.push_back(std::move(weight));
        exponents.push_back(std::pow(sum, double(softmax.lse_scale)));
      }
      double total = 0;
      for (const double e : exponents) total += e;
      for (size_t m = 0; m < means.size(); ++m) {
        for (size_t i = 0; i < d; ++i) out[head * d + i] += exponents[m] / total * means[m][i];
        for (size_t s = 0; s < shares.size(); ++s) {
          shares[s] += exponents[m] / total * weights[m][s] / double(c_.heads);
        }
      }
    }
    return out;
  }

  const models::Config& c_;
  models::Weights<Numbers, Numbers> w_;
};

}  // namespace tutti::engine
