#include "decode/diffusion/policy.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "decode/diffusion/credit.h"
#include "decode/diffusion/filter.h"
#include "tensor/kernels.h"

namespace tutti::decode::diffusion {

namespace {

// The draws of a position.
DrawKey draws_at(DrawKey key, int position) {
  key.purpose = Purpose::kDenoising;
  key.position = uint32_t(position);
  return key;
}

}  // namespace

int quota(int m, int s, int j) { return m / s + (j < m % s ? 1 : 0); }

std::vector<float> scores(std::span<const Prediction> predictions, Order order, const DrawKey& key,
                          int step) {
  std::vector<float> out;
  for (const Prediction& p : predictions) {
    if (p.last) {
      out.push_back(-INFINITY);
      continue;
    }
    switch (order) {
      case Order::kConfidence:
        out.push_back(p.log_probability);
        break;
      case Order::kMargin:
        out.push_back(p.margin);
        break;
      case Order::kEntropy:
        out.push_back(-p.entropy);
        break;
      case Order::kRandom:
        out.push_back(uniform_open(draw_word(draws_at(key, p.position), uint32_t(step))));
        break;
      case Order::kSequential:
        out.push_back(-float(p.position));
        break;
    }
  }
  return out;
}

std::vector<int> ranked(std::span<const Prediction> predictions, std::span<const float> scores) {
  std::vector<int> order;
  for (size_t i = 0; i < predictions.size(); ++i) {
    if (predictions[i].open) order.push_back(int(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return scores[size_t(a)] > scores[size_t(b)]; });
  return order;
}

namespace {

// Writes the best `least`, and as many more of the ranking as `accepts` from the front.
class Ranked : public Policy {
 public:
  explicit Ranked(const PolicyOptions& options) : options_(options) {}
  bool stateless() const override { return options_.order != Order::kRandom; }
  Order order() const override { return options_.order; }

  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override {
    std::vector<int> rank = ranking(predictions);
    const int n = std::max(accepts(predictions, rank), std::min(step.least, int(rank.size())));
    rank.resize(size_t(n));
    return rank;
  }

 protected:
  virtual int accepts(const std::vector<Prediction>&, const std::vector<int>&) { return 0; }
  // Each call draws anew where the order is random.
  std::vector<float> score(const std::vector<Prediction>& predictions) {
    return scores(predictions, order(), options_.key, total_++);
  }
  std::vector<int> ranking(const std::vector<Prediction>& predictions) {
    return ranked(predictions, score(predictions));
  }
  PolicyOptions options_;

 private:
  int total_ = 0;
};

// Those of the ranking that `accepts` alone, wherever they stand in it.
class Each : public Ranked {
 public:
  using Ranked::Ranked;
  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override {
    return best_and_accepted(predictions, ranking(predictions), step.least,
                             [&](size_t i) { return accepts_one(step, predictions[i]); });
  }

 protected:
  virtual bool accepts_one(const Step& step, const Prediction& p) const = 0;
};

class Threshold : public Each {
 public:
  using Each::Each;

 private:
  bool accepts_one(const Step& step, const Prediction& p) const override {
    const float first =
        options_.threshold_decay > 0 ? 1.0f - options_.threshold_decay * float(step.index) : 0.0f;
    return p.probability >= std::max(options_.threshold, first);
  }
};

class EntropyThreshold : public Each {
 public:
  using Each::Each;

 private:
  Order order() const override { return Order::kEntropy; }
  bool accepts_one(const Step&, const Prediction& p) const override {
    return p.entropy <= options_.entropy;
  }
};

// The largest n with (n + 1)(1 - c_n) < f: if every marginal is above 1 - e and (n + 1) e <= 1,
// writing all n greedily is the greedy joint choice.
class Factor : public Ranked {
 public:
  using Ranked::Ranked;

 private:
  Order order() const override { return Order::kConfidence; }
  int accepts(const std::vector<Prediction>& predictions, const std::vector<int>& rank) override {
    int n = 0;
    for (size_t r = 0; r < rank.size(); ++r) {
      const Prediction& p = predictions[size_t(rank[r])];
      if (p.last) break;
      const float doubt = 1.0f - p.probability;
      if (float(r + 2) * doubt < options_.factor) n = int(r + 1);
    }
    return n;
  }
};

class EntropyBounded : public Ranked {
 public:
  using Ranked::Ranked;

 private:
  Order order() const override { return Order::kEntropy; }
  int accepts(const std::vector<Prediction>& predictions, const std::vector<int>& rank) override {
    float sum = 0;
    int n = 0;
    for (const int i : rank) {
      sum += predictions[size_t(i)].entropy;
      if (predictions[size_t(i)].last || sum > options_.entropy_bound) break;
      ++n;
    }
    return n;
  }
};

// Of every run of open positions the best, if it is above the low threshold; all above the
// threshold; the best of all.
class Hierarchy : public Ranked {
 public:
  using Ranked::Ranked;

  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override {
    const std::vector<float> s = score(predictions);
    const std::vector<int> rank = ranked(predictions, s);
    std::vector<bool> best(predictions.size(), false);
    int leader = -1, last = INT32_MIN;
    const auto close = [&] {
      const Prediction* p = leader >= 0 ? &predictions[size_t(leader)] : nullptr;
      if (p && !p->last && p->probability > options_.low_threshold) best[size_t(leader)] = true;
      leader = -1;
    };
    for (size_t i = 0; i < predictions.size(); ++i) {
      if (!predictions[i].open) continue;
      if (predictions[i].position != last + 1) close();
      last = predictions[i].position;
      if (leader < 0 || s[i] > s[size_t(leader)]) leader = int(i);
    }
    close();
    return best_and_accepted(predictions, rank, step.least, [&](size_t i) {
      return best[i] || predictions[i].probability > options_.threshold;
    });
  }
};

// `n` of the open predictions: the best ones, or drawn without replacement from softmax(score /
// temperature).
std::vector<int> take(const std::vector<Prediction>& predictions, std::span<const float> s, int n,
                      const PolicyOptions& options, int step) {
  std::vector<int> rank;
  if (options.order_temperature > 0 && options.order != Order::kRandom) {
    // The n largest of score / temperature + Gumbel noise are such a draw.
    std::vector<float> noisy(s.begin(), s.end());
    for (size_t i = 0; i < noisy.size(); ++i) {
      float noise = 0;
      tensor::kernels().gumbel(draws_at(options.key, predictions[i].position), &step, 1, &noise);
      noisy[i] = s[i] / options.order_temperature + noise;
    }
    rank = ranked(predictions, noisy);
  } else {
    rank = ranked(predictions, s);
  }
  rank.resize(size_t(std::min(n, int(rank.size()))));
  return rank;
}

// Time runs from 1 to epsilon in `steps` equal steps; t_i is the share of positions still open
// after step i.
class Times {
 public:
  Times(int steps, float epsilon) : steps_(steps), epsilon_(epsilon) {}
  int steps() const { return steps_; }
  double at(int i) const { return 1.0 + (double(epsilon_) - 1.0) * i / steps_; }

 private:
  int steps_;
  float epsilon_;
};

// Dream's sampler: at step i, of the n open positions n (1 - t_{i+1} / t_i), all at the last one.
class Schedule : public Policy {
 public:
  explicit Schedule(const PolicyOptions& options) : options_(options), times_(1, options.epsilon) {}
  void begin_block(int open) override {
    times_ = Times(options_.steps > 0 ? options_.steps : open, options_.epsilon);
  }

  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override {
    const std::vector<float> s = scores(predictions, options_.order, options_.key, total_);
    const int open = int(std::ranges::count_if(predictions, &Prediction::open));
    const bool last = step.index + 1 >= times_.steps();
    const double share = last ? 1.0 : 1.0 - times_.at(step.index + 1) / times_.at(step.index);
    if (options_.bernoulli && !last) {
      std::vector<int> out;
      for (size_t i = 0; i < predictions.size(); ++i) {
        if (!predictions[i].open) continue;
        const DrawKey key = draws_at(options_.key, predictions[i].position);
        if (double(uniform_open(draw_word(key, uint32_t(total_)))) < share) out.push_back(int(i));
      }
      ++total_;
      return out;
    }
    return take(predictions, s, last ? open : int(double(open) * share), options_, total_++);
  }

 private:
  PolicyOptions options_;
  Times times_;
  int total_ = 0;
};

// Dimple's confident decoding: all above the threshold; when there are none, what the schedule owes
// at this share of open positions.
class Confident : public Policy {
 public:
  explicit Confident(const PolicyOptions& options)
      : options_(options), times_(1, options.epsilon) {}
  void begin_block(int open) override {
    times_ = Times(options_.steps > 0 ? options_.steps : open, options_.epsilon);
    all_ = open;
  }

  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override {
    const std::vector<float> s = scores(predictions, options_.order, options_.key, total_);
    const std::vector<int> rank = ranked(predictions, s);
    const int open = int(rank.size()), round = total_++;
    if (step.index + 1 >= times_.steps()) return rank;
    std::vector<int> sure;
    for (const int i : rank) {
      const Prediction& p = predictions[size_t(i)];
      if (!p.last && p.probability > options_.threshold) sure.push_back(i);
    }
    if (!sure.empty()) return sure;
    const double ratio = std::max(double(open) / all_, times_.at(times_.steps()));
    int next = 0;
    while (next < times_.steps() && times_.at(next) >= ratio) ++next;
    next = std::max(next, step.index + 1);
    int n = 0;
    for (; next < times_.steps(); ++next) {
      n = int(double(open) * (1.0 - times_.at(next) / ratio));
      if (n >= 1) break;
    }
    if (next >= times_.steps()) n = open;
    if (options_.order == Order::kSequential) n = 1;
    return take(predictions, s, n, options_, round);
  }

 private:
  PolicyOptions options_;
  Times times_;
  int all_ = 0, total_ = 0;
};

template <class P>
std::unique_ptr<Policy> make(const PolicyOptions& options, int) {
  return std::make_unique<P>(options);
}
std::unique_ptr<Policy> make_learned(const PolicyOptions& options, int block) {
  return std::make_unique<LearnedFilter>(options, block);
}

constexpr struct {
  std::string_view name;
  std::unique_ptr<Policy> (*make)(const PolicyOptions& options, int block);
} kPolicies[] = {
    {"static", make<Ranked>},             // LLaDA's reference sampler: the best of each step
    {"threshold", make<Threshold>},       // Fast-dLLM: all of at least a probability
    {"factor", make<Factor>},             // Fast-dLLM: the largest n with (n + 1)(1 - c_n) < factor
    {"entropy", make<EntropyThreshold>},  // dParallel: all of at most an entropy
    {"entropy-bounded",
     make<EntropyBounded>},  // SDAR: the most whose entropies add up to at most a bound
    {"hierarchy",
     make<Hierarchy>},  // dInfer: the best of every run, and all of at least a probability
    {"schedule", make<Schedule>},    // Dream: shares of the open positions
    {"confident", make<Confident>},  // Dimple: all above a probability, else what the schedule owes
    {"credit", make<Credit>},        // CreditDecoding: probability raised by a token's record
    {"learned", make_learned},       // Learn2PD: a trained filter over the block's probabilities
};

}  // namespace

bool is_policy(std::string_view name) {
  return std::ranges::any_of(kPolicies, [&](const auto& p) { return p.name == name; });
}

std::unique_ptr<Policy> make_policy(const PolicyOptions& o, int block) {
  std::string names;
  for (const auto& p : kPolicies) {
    if (p.name == o.name) return p.make(o, block);
    names += (names.empty() ? "" : ", ") + std::string(p.name);
  }
  throw Error(ErrorKind::kUsage, "option policy=" + o.name + ": unknown; policies are " + names);
}

}  // namespace tutti::decode::diffusion
