// Every policy against its definition, written out in double over all subsets or prefixes, on
// random predictions.
#include "decode/diffusion/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/draws.h"
#include "base/error.h"

namespace tutti::decode::diffusion {
namespace {

// A block of 1 to 24 positions, some written, some equally likely.
std::vector<Prediction> random_block(Draws& draws) {
  std::vector<Prediction> block;
  const int n = 1 + draws.below(24);
  for (int i = 0; i < n; ++i) {
    Prediction p;
    p.position = 10 + i;
    p.open = draws.below(4) != 0;
    p.token = p.likeliest = draws.below(50);
    p.probability =
        draws.below(3) == 0 ? 0.125f * float(1 + draws.below(8)) : draws.uniform(0.01f, 1.0f);
    p.log_probability = std::log(p.probability);
    p.margin = draws.uniform(0, p.probability);
    p.entropy = draws.uniform(0, 1.5f) * (1 - p.probability);
    block.push_back(p);
  }
  if (std::ranges::none_of(block, &Prediction::open)) block[0].open = true;
  return block;
}

std::vector<int> open_of(const std::vector<Prediction>& block) {
  std::vector<int> open;
  for (size_t i = 0; i < block.size(); ++i) {
    if (block[i].open) open.push_back(int(i));
  }
  return open;
}

// Open indices by descending key, leftmost first: a selection sort, one at a time.
template <class Key>
std::vector<int> by(const std::vector<Prediction>& block, Key key) {
  std::vector<int> left = open_of(block), out;
  while (!left.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < left.size(); ++i) {
      if (key(block[size_t(left[i])]) > key(block[size_t(left[best])])) best = i;
    }
    out.push_back(left[best]);
    left.erase(left.begin() + ptrdiff_t(best));
  }
  return out;
}

std::set<int> set_of(const std::vector<int>& v) { return {v.begin(), v.end()}; }

std::set<int> choose(const PolicyOptions& o, const std::vector<Prediction>& block, Step step = {}) {
  auto policy = make_policy(o, int(block.size()));
  policy->begin_block(int(open_of(block).size()));
  std::vector<Prediction> copy = block;
  const std::vector<int> chosen = policy->choose(step, copy);
  EXPECT_EQ(set_of(chosen).size(), chosen.size()) << "one position twice";
  for (const int i : chosen) EXPECT_TRUE(block[size_t(i)].open);
  return set_of(chosen);
}

double confidence(const Prediction& p) { return double(p.log_probability); }

class Policies : public testing::Test {
 protected:
  template <class Expected>
  void check(const PolicyOptions& o, Expected expected) {
    for (int round = 0; round < 3000; ++round) {
      const auto block = random_block(draws);
      Step step;
      step.least = 1 + draws.below(3);
      ASSERT_EQ(choose(o, block, step), set_of(expected(block, step.least)))
          << o.name << ", round " << round;
    }
  }
  Draws draws{7};
};

std::vector<int> first(std::vector<int> rank, size_t n) {
  rank.resize(std::min(rank.size(), n));
  return rank;
}

TEST_F(Policies, StaticTakesTheBest) {
  PolicyOptions o;
  o.name = "static";
  check(o, [](const auto& b, int least) { return first(by(b, confidence), size_t(least)); });
  o.order = Order::kMargin;
  check(o, [](const auto& b, int least) {
    return first(by(b, [](auto& p) { return p.margin; }), size_t(least));
  });
  o.order = Order::kEntropy;
  check(o, [](const auto& b, int least) {
    return first(by(b, [](auto& p) { return -p.entropy; }), size_t(least));
  });
  o.order = Order::kSequential;
  check(o, [](const auto& b, int least) { return first(open_of(b), size_t(least)); });
}

TEST_F(Policies, ThresholdTakesAllAbove) {
  PolicyOptions o;
  o.name = "threshold";
  for (const float threshold : {0.5f, 0.875f, 1.5f}) {
    o.threshold = threshold;
    check(o, [&](const auto& b, int least) {
      std::vector<int> out = first(by(b, confidence), size_t(least));
      for (const int i : open_of(b)) {
        if (b[size_t(i)].probability >= threshold) out.push_back(i);
      }
      return out;
    });
  }
}

TEST_F(Policies, FactorTakesTheLargestThatHolds) {
  PolicyOptions o;
  o.name = "factor";
  for (const float factor : {0.3f, 1.0f, 2.5f}) {
    o.factor = factor;
    check(o, [&](const auto& b, int least) {
      const auto rank = by(b, confidence);
      size_t n = size_t(least);
      // All prefix lengths are tried; no early end.
      for (size_t k = 1; k <= rank.size(); ++k) {
        const double c = double(b[size_t(rank[k - 1])].probability);
        if (1 - c < double(factor) / double(k + 1) - 1e-9) n = std::max(n, k);
      }
      return first(rank, n);
    });
  }
}

TEST_F(Policies, EntropyAndItsBound) {
  PolicyOptions o;
  o.name = "entropy";
  o.entropy = 0.3f;
  const auto rank = [](const auto& b) {
    return by(b, [](const Prediction& p) { return -p.entropy; });
  };
  check(o, [&](const auto& b, int least) {
    std::vector<int> out = first(rank(b), size_t(least));
    for (const int i : open_of(b)) {
      if (b[size_t(i)].entropy <= 0.3f) out.push_back(i);
    }
    return out;
  });
  o.name = "entropy-bounded";
  o.entropy_bound = 0.9f;
  check(o, [&](const auto& b, int least) {
    const auto r = rank(b);
    size_t n = 0;
    for (size_t k = 1; k <= r.size(); ++k) {
      float sum = 0;
      for (size_t i = 0; i < k; ++i) sum += b[size_t(r[i])].entropy;
      if (sum <= 0.9f) n = k;
    }
    return first(r, std::max(n, size_t(least)));
  });
  // Infinity writes everything in one forward, below zero one position per forward.
  PolicyOptions all;
  all.name = "entropy";
  all.entropy = 1e6f;
  PolicyOptions none = all;
  none.entropy = -1;
  for (int round = 0; round < 100; ++round) {
    const auto b = random_block(draws);
    EXPECT_EQ(choose(all, b), set_of(open_of(b)));
    EXPECT_EQ(choose(none, b), set_of(first(rank(b), 1)));
  }
}

TEST_F(Policies, HierarchyTakesTheBestOfEveryRun) {
  PolicyOptions o;
  o.name = "hierarchy";
  o.low_threshold = 0.4f;
  o.threshold = 0.8f;
  check(o, [&](const auto& b, int least) {
    std::vector<int> out = first(by(b, confidence), size_t(least));
    for (const int i : open_of(b)) {
      if (b[size_t(i)].probability > 0.8f) out.push_back(i);
      // The best of its run: no open position between it and a better one, or an equal one on the
      // left.
      bool best = b[size_t(i)].probability > 0.4f;
      for (int j = i - 1; j >= 0 && b[size_t(j)].open; --j) {
        best = best && b[size_t(j)].log_probability < b[size_t(i)].log_probability;
      }
      for (int j = i + 1; j < int(b.size()) && b[size_t(j)].open; ++j) {
        best = best && b[size_t(j)].log_probability <= b[size_t(i)].log_probability;
      }
      if (best) out.push_back(i);
    }
    return out;
  });
}

// Dream: with S steps from time 1 to epsilon, n (1 - t_{i+1} / t_i) of n; all at the last.
TEST_F(Policies, ScheduleGivesItsShares) {
  PolicyOptions o;
  o.name = "schedule";
  for (int round = 0; round < 500; ++round) {
    const auto b = random_block(draws);
    const int n = int(open_of(b).size());
    o.steps = 1 + draws.below(12);
    for (int i = 0; i < o.steps; ++i) {
      Step step;
      step.index = i;
      const double t = 1 - (1 - 1e-3) * i / o.steps, s = 1 - (1 - 1e-3) * (i + 1) / o.steps;
      const int share = i + 1 == o.steps ? n : int(n * (1 - s / t));
      ASSERT_EQ(choose(o, b, step), set_of(first(by(b, confidence), size_t(share))));
    }
  }
}

// Bernoulli: over many positions and steps the share is the schedule's.
TEST_F(Policies, ScheduleByLotHasTheRightShare) {
  PolicyOptions o;
  o.name = "schedule";
  o.bernoulli = true;
  o.steps = 4;
  std::vector<Prediction> block(10000);
  for (size_t i = 0; i < block.size(); ++i) block[i].position = int(i);
  Step step;
  step.index = 1;
  const double share = 1 - (1 - (1 - 1e-3) * 2 / 4) / (1 - (1 - 1e-3) * 1 / 4);
  const double taken = double(choose(o, block, step).size());
  EXPECT_NEAR(taken / 10000, share, 4 * std::sqrt(share * (1 - share) / 10000));
}

TEST_F(Policies, OrderTemperatureDrawsBySoftmax) {
  PolicyOptions o;
  o.name = "schedule";
  o.steps = 3;
  o.order_temperature = 0.7f;
  std::vector<Prediction> block(3);
  for (size_t i = 0; i < 3; ++i) {
    block[i].position = int(i);
    block[i].log_probability = -float(i) * 0.6f;
  }
  std::map<int, int> counts;
  Step step;
  step.index = 1;  // half of the three: one
  constexpr int kRounds = 20000;
  for (int round = 0; round < kRounds; ++round) {
    o.key.seed = uint64_t(round);
    const auto chosen = choose(o, block, step);
    if (chosen.size() == 1) ++counts[*chosen.begin()];
  }
  double z = 0, sum = 0;
  for (int i = 0; i < 3; ++i) z += std::exp(-i * 0.6 / 0.7);
  for (const auto& [i, n] : counts) sum += n;
  ASSERT_EQ(sum, kRounds);
  for (int i = 0; i < 3; ++i) {
    const double p = std::exp(-i * 0.6 / 0.7) / z;
    EXPECT_NEAR(counts[i] / double(kRounds), p, 4 * std::sqrt(p * (1 - p) / kRounds));
  }
}

// Dimple, run to the end against its pseudo-code on the counts alone.
TEST_F(Policies, ConfidentFollowsTheRatio) {
  for (int round = 0; round < 1000; ++round) {
    PolicyOptions o;
    o.name = "confident";
    o.threshold = draws.uniform(0.3f, 1.2f);
    const int all = 1 + draws.below(30);
    o.steps = 1 + draws.below(40);
    auto policy = make_policy(o, all);
    policy->begin_block(all);
    const auto time = [&](int i) { return 1 - (1 - 1e-3) * i / o.steps; };
    int open = all;
    for (int i = 0; open > 0; ++i) {
      ASSERT_LT(i, o.steps);
      std::vector<Prediction> block(static_cast<size_t>(open));
      int sure = 0;
      for (int j = 0; j < open; ++j) {
        Prediction& p = block[size_t(j)];
        p.position = j;
        p.probability = draws.uniform(0, 1);
        p.log_probability = std::log(p.probability);
        sure += p.probability > o.threshold;
      }
      int expected = sure;
      if (i == o.steps - 1) {
        expected = open;
      } else if (sure == 0) {
        const double ratio = std::max(double(open) / all, 1e-3);
        int s = 0;
        while (s <= o.steps && time(s) >= ratio) ++s;
        s = std::max(s, i + 1);
        while (s < o.steps && std::floor(open * (1 - time(s) / ratio)) < 1) ++s;
        expected = s >= o.steps ? open : int(std::floor(open * (1 - time(s) / ratio)));
      }
      Step step;
      step.index = i;
      ASSERT_EQ(int(policy->choose(step, block).size()), expected)
          << "step " << i << " of " << o.steps;
      open -= expected;
    }
  }
}

TEST(Threshold, DecaysToItsValue) {
  PolicyOptions o;
  o.name = "threshold";
  o.threshold = 0.7f;
  o.threshold_decay = 0.125f;
  std::vector<Prediction> block;
  for (const float p : {0.99f, 0.9f, 0.8f, 0.72f, 0.6f}) {
    Prediction one;
    one.position = int(block.size());
    one.token = 1;
    one.probability = p;
    one.log_probability = std::log(p);
    block.push_back(one);
  }
  // 1, 0.875, 0.75, 0.7 from there on.
  constexpr size_t kWritten[] = {1, 2, 3, 4, 4};
  for (int step = 0; step < 5; ++step) {
    Step s;
    s.index = step;
    EXPECT_EQ(choose(o, block, s).size(), kWritten[step]) << step;
  }
}

TEST(Hierarchy, RandomOrderDrawsAnewAtEachStep) {
  PolicyOptions o;
  o.name = "hierarchy";
  o.order = Order::kRandom;
  o.threshold = 2;
  std::vector<Prediction> block;
  for (int i = 0; i < 16; ++i) {
    Prediction one;
    one.position = i;
    one.token = 1;
    one.probability = 0.1f;  // nothing is sure: the best by the draw alone is written
    block.push_back(one);
  }
  const auto policy = make_policy(o, 16);
  policy->begin_block(16);
  std::set<int> written;
  for (int step = 0; step < 32; ++step) {
    std::vector<Prediction> copy = block;
    const auto chosen = policy->choose({}, copy);
    ASSERT_EQ(chosen.size(), 1u);
    written.insert(chosen[0]);
  }
  EXPECT_GT(written.size(), 8u);  // of 16, in 32 draws; 14 are expected
}

TEST(Quota, SharesEverything) {
  for (int m = 1; m < 40; ++m) {
    for (int s = 1; s <= m; ++s) {
      int sum = 0;
      for (int j = 0; j < s; ++j) {
        sum += quota(m, s, j);
        if (j > 0) EXPECT_LE(quota(m, s, j), quota(m, s, j - 1));
      }
      EXPECT_EQ(sum, m);
    }
  }
}

TEST(PolicyOptions, UnknownNamesAreRefused) {
  PolicyOptions o;
  o.name = "brave";
  try {
    make_policy(o, 4);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("static, threshold, factor"), std::string::npos)
        << e.what();
  }
  o.name = "learned";
  EXPECT_THROW(make_policy(o, 4), Error);  // no file
  o.name = "credit";
  o.credit_decay = 1.5f;
  EXPECT_THROW(make_policy(o, 4), Error);
}

}  // namespace
}  // namespace tutti::decode::diffusion
