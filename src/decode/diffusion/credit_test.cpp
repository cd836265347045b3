// Credits against a dense table in double, and the closed forms and traces of sheet 36.
#include "decode/diffusion/credit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/draws.h"

namespace tutti::decode::diffusion {
namespace {

PolicyOptions defaults() {
  PolicyOptions o;
  o.name = "credit";
  return o;
}

// What the engine answers about a row of logits.
Prediction predict(int position, const std::vector<double>& logits, const Credit& policy) {
  Prediction p;
  p.position = position;
  size_t best = 0;
  for (size_t v = 1; v < logits.size(); ++v) {
    if (logits[v] > logits[best]) best = v;
  }
  double sum = 0;
  for (const double l : logits) sum += std::exp(l - logits[best]);
  p.token = p.likeliest = int32_t(best);
  p.likeliest_logit = float(logits[best]);
  p.log_sum_exp = float(logits[best] + std::log(sum));
  p.log_probability = p.likeliest_logit - p.log_sum_exp;
  p.probability = std::exp(p.log_probability);
  for (const int32_t id : policy.listed(position))
    p.listed.emplace_back(id, float(logits[size_t(id)]));
  return p;
}

// Logits of a vocabulary in which token 0 has probability p and the rest share what is left.
std::vector<double> dominant(double p, int vocabulary = 1000) {
  std::vector<double> logits(size_t(vocabulary), std::log((1 - p) / (vocabulary - 1)));
  logits[0] = std::log(p);
  return logits;
}

TEST(Credit, EqualsADenseTable) {
  Draws draws(3);
  for (int round = 0; round < 60; ++round) {
    const int vocabulary = 2 + draws.below(round % 10 == 0 ? 20000 : 300), positions = 3,
              steps = 12;
    PolicyOptions o = defaults();
    o.credit_alpha = draws.uniform(0, 2);
    o.credit_decay = draws.uniform(0, 1);
    o.credit_gamma = draws.uniform(0.1f, 1.5f);
    o.threshold = 2;  // nothing but the least is written; all stay open here
    Credit policy(o);
    policy.begin_block(positions);
    std::vector<std::vector<double>> table(positions, std::vector<double>(size_t(vocabulary), 0));
    const float sharp = draws.uniform(0.1f, 12);
    std::vector<std::vector<double>> logits(positions, std::vector<double>(size_t(vocabulary)));
    for (int t = 0; t < steps; ++t) {
      std::vector<Prediction> predictions;
      for (int i = 0; i < positions; ++i) {
        for (double& l : logits[size_t(i)]) {
          // The logits that reach the policy are fp32; some are equal.
          if (t == 0 || draws.below(3) == 0) l = double(draws.uniform(-sharp, sharp));
        }
        predictions.push_back(predict(i, logits[size_t(i)], policy));
      }
      Step step;
      step.index = t;
      policy.choose(step, predictions);
      for (int i = 0; i < positions; ++i) {
        auto& c = table[size_t(i)];
        const auto& l = logits[size_t(i)];
        const size_t best = size_t(std::ranges::max_element(l) - l.begin());
        double sum = 0;
        for (const double x : l) sum += std::exp(x - l[best]);
        if (t > 0) {
          for (double& x : c) x *= double(o.credit_decay);
        }
        c[best] += std::pow(1 / sum, double(o.credit_gamma));
        std::vector<double> fused(l);
        for (size_t v = 0; v < fused.size(); ++v)
          fused[v] += double(o.credit_alpha) * std::log1p(c[v]);
        const double top = *std::ranges::max_element(fused);
        double z = 0;
        for (const double x : fused) z += std::exp(x - top);
        const Prediction& p = predictions[size_t(i)];
        ASSERT_NEAR(double(p.probability), 1 / z, 4e-6) << "round " << round << " step " << t;
        // Two tokens within rounding of each other may change places.
        ASSERT_NEAR(fused[size_t(p.token)], top, 1e-5);
      }
    }
  }
}

// C_n = q (1 - b^n) / (1 - b); the threshold on a constant probability falls from step to step (the
// sheet's table).
TEST(Credit, ConstantProbabilityHasClosedForms) {
  struct Case {
    float alpha, decay, gamma;
    std::vector<std::pair<int, double>> thresholds;
  };
  const Case cases[] = {
      {0.7f, 0.8f, 0.2f, {{1, 0.849}, {2, 0.817}, {3, 0.795}, {4, 0.779}, {6, 0.759}, {10, 0.739}}},
      {0.7f,
       0.65f,
       0.5f,
       {{1, 0.851}, {2, 0.826}, {3, 0.812}, {4, 0.803}, {6, 0.794}, {10, 0.789}}},
  };
  for (const Case& c : cases) {
    PolicyOptions o = defaults();
    o.credit_alpha = c.alpha;
    o.credit_decay = c.decay;
    o.credit_gamma = c.gamma;
    const auto fused_after = [&](double p, int steps) {
      Credit policy(o);
      policy.begin_block(1);
      float probability = 0;
      for (int t = 0; t < steps; ++t) {
        std::vector<Prediction> one{predict(0, dominant(p), policy)};
        Step step;
        step.index = t;
        policy.choose(step, one);
        probability = one[0].probability;
        const double q = std::pow(p, double(c.gamma));
        EXPECT_NEAR(policy.credit(0, 0),
                    q * (1 - std::pow(double(c.decay), t + 1)) / (1 - double(c.decay)), 1e-6);
      }
      return probability;
    };
    for (const auto& [steps, threshold] : c.thresholds) {
      EXPECT_LT(fused_after(threshold - 0.001, steps), 0.9) << steps;
      EXPECT_GT(fused_after(threshold + 0.001, steps), 0.9) << steps;
    }
  }
}

TEST(Credit, AStableTokenIsWrittenAtStepThreeAndASpikeIsNot) {
  const auto run = [](const std::vector<double>& trace) {
    Credit policy(defaults());
    policy.begin_block(2);
    std::vector<double> fused;
    for (size_t t = 0; t < trace.size(); ++t) {
      std::vector<Prediction> one{predict(0, dominant(trace[t]), policy)};
      Step step;
      step.index = int(t);
      step.least = 0;
      const bool written = !policy.choose(step, one).empty();
      fused.push_back(double(one[0].probability));
      EXPECT_EQ(written, fused.back() >= 0.9) << "step " << t;
    }
    return fused;
  };
  const auto stable = run({0.8, 0.8, 0.8});
  EXPECT_NEAR(stable[0], 0.865, 5e-4);
  EXPECT_NEAR(stable[1], 0.890, 5e-4);
  EXPECT_NEAR(stable[2], 0.903, 5e-4);
  EXPECT_NEAR(run({0.84})[0], 0.894, 5e-4);
  EXPECT_NEAR(run({0.88})[0], 0.922, 5e-4);
}

TEST(Credit, WithoutStrengthItIsTheThreshold) {
  Draws draws(5);
  PolicyOptions o = defaults();
  o.credit_alpha = 0;
  Credit credit(o);
  o.name = "threshold";
  const auto threshold = make_policy(o, 8);
  credit.begin_block(8);
  for (int t = 0; t < 200; ++t) {
    std::vector<Prediction> a;
    for (int i = 0; i < 8; ++i)
      a.push_back(predict(i, dominant(double(draws.uniform(0.3f, 0.999f))), credit));
    std::vector<Prediction> b = a;
    Step step;
    step.index = t;
    EXPECT_EQ(credit.choose(step, a), threshold->choose(step, b));
  }
}

TEST(Credit, WithoutParametersNothingCountsAtFirst) {
  PolicyOptions o = defaults();
  o.credit_free = true;
  Credit policy(o);
  policy.begin_block(2);
  std::vector<Prediction> block{predict(0, dominant(0.6), policy),
                                predict(1, dominant(0.5), policy)};
  policy.choose({}, block);  // all is open: the share of open positions is 1
  EXPECT_NEAR(block[0].probability, 0.6, 1e-6);
  std::vector<Prediction> later{predict(1, dominant(0.5), policy)};
  Step step;
  step.index = 1;
  policy.choose(step, later);  // half is open: alpha = decay = 0.5, credit 0.5 * 0.5 + 0.5
  const double gain = std::sqrt(1.75);
  EXPECT_NEAR(later[0].probability, 0.5 * gain / (0.5 + 0.5 * gain), 1e-6);
}

TEST(Credit, WithoutParametersTheWholeAnswerMayCount) {
  PolicyOptions o = defaults();
  o.credit_free = true;
  o.credit_of_answer = true;
  Credit policy(o);
  policy.begin_block(1);
  Step step;
  step.open_share = 0.25f;  // alpha = 0.75, a first credit of 0.6
  std::vector<Prediction> one{predict(0, dominant(0.6), policy)};
  policy.choose(step, one);
  const double gain = std::pow(1.6, 0.75);
  EXPECT_NEAR(one[0].probability, 0.6 * gain / (0.4 + 0.6 * gain), 1e-6);
}

TEST(Credit, KeptProbabilitiesAreNotLoweredByOthers) {
  for (const bool keep : {false, true}) {
    PolicyOptions o = defaults();
    o.credit_keep = keep;
    Credit policy(o);
    policy.begin_block(1);
    std::vector<double> logits(4, 0.0);
    logits[0] = 3;
    for (int t = 0; t < 6; ++t) {  // token 0 earns credit
      std::vector<Prediction> one{predict(0, logits, policy)};
      Step step;
      step.index = t;
      policy.choose(step, one);
    }
    std::swap(logits[0], logits[1]);
    std::vector<Prediction> one{predict(0, logits, policy)};
    const float own = std::exp(3.0f) / (std::exp(3.0f) + 3.0f);
    Step step;
    step.index = 6;
    policy.choose(step, one);
    ASSERT_EQ(one[0].token, 1);
    // By its definition without keep: odds of each listed token are multiplied by (1 +
    // credit)^alpha.
    const double mine = std::exp(3.0) * std::pow(1 + policy.credit(0, 1), 0.7);
    const double fused = mine / (mine + std::pow(1 + policy.credit(0, 0), 0.7) + 2.0);
    EXPECT_NEAR(one[0].probability, keep ? std::max(double(own), fused) : fused, 1e-5);
  }
}

TEST(Credit, SlotsKeepTheLargest) {
  PolicyOptions o = defaults();
  o.credit_slots = 2;
  Credit policy(o);
  policy.begin_block(1);
  for (int t = 0; t < 6; ++t) {
    std::vector<double> logits(4, 0.0);
    logits[size_t(t < 3 ? 0 : t - 2)] = 3;
    std::vector<Prediction> one{predict(0, logits, policy)};
    Step step;
    step.index = t;
    policy.choose(step, one);
    EXPECT_LE(policy.listed(0).size(), 2u);
  }
  EXPECT_GT(policy.credit(0, 3), 0);  // the last one had more than the decayed second
  policy.begin_block(1);
  EXPECT_TRUE(policy.listed(0).empty());
}

}  // namespace
}  // namespace tutti::decode::diffusion
