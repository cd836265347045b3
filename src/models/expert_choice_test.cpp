// By hand: agreement with the oracle is aten/tensor_ops_test's, with PyTorch tests/conformance's.
#include "models/expert_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tutti::models {
namespace {

struct Choice {
  std::vector<int> ids;
  std::vector<float> weights;
};

Choice choose(const Experts& e, std::vector<float> products, const std::vector<float>& bias = {}) {
  Choice c;
  c.ids.resize(size_t(e.used));
  c.weights.resize(size_t(e.used));
  std::vector<float> scratch(products.size());
  choose_experts(tensor::kernels(), e, bias, products, scratch, c.ids, c.weights);
  return c;
}

float sigmoid(double x) { return float(1 / (1 + std::exp(-x))); }

Experts sigmoids(int count, int used) {
  Experts e;
  e.count = count;
  e.used = used;
  e.score = Experts::Score::kSigmoid;
  return e;
}

TEST(ExpertChoice, TheBiasChoosesAndDoesNotWeigh) {
  Experts e = sigmoids(4, 2);
  const Choice plain = choose(e, {0, 1, 2, 3});
  EXPECT_EQ(plain.ids, (std::vector{3, 2}));
  const Choice biased = choose(e, {0, 1, 2, 3}, {1, 0, 0, 0});
  EXPECT_EQ(biased.ids, (std::vector{0, 3}));
  EXPECT_FLOAT_EQ(biased.weights[0], 0.5f);
  EXPECT_FLOAT_EQ(biased.weights[1], sigmoid(3));
  e.bias_weighs = true;
  EXPECT_FLOAT_EQ(choose(e, {0, 1, 2, 3}, {1, 0, 0, 0}).weights[0], 1.5f);
}

TEST(ExpertChoice, GroupsAreRankedByTheirTwoBest) {
  Experts e = sigmoids(6, 2);
  e.groups = 2;
  e.used_groups = 1;
  // The best expert of all stands in the group with the smaller sum.
  const Choice c = choose(e, {4, -4, -4, 1, 2, -9});
  EXPECT_EQ(c.ids, (std::vector{4, 3}));
  EXPECT_FLOAT_EQ(c.weights[0], sigmoid(2));
  // The bias ranks groups, too.
  EXPECT_EQ(choose(e, {4, -4, -4, 1, 2, -9}, {0, 0.9f, 0, 0, 0, 0}).ids, (std::vector{0, 1}));
}

TEST(ExpertChoice, TiesGoToTheLowerIndex) {
  Experts e = sigmoids(8, 3);
  e.groups = 4;
  e.used_groups = 2;
  EXPECT_EQ(choose(e, std::vector<float>(8, 0.5f)).ids, (std::vector{0, 1, 2}));
}

TEST(ExpertChoice, NormalisedThenScaled) {
  Experts e = sigmoids(3, 2);
  e.normalise = true;
  e.scale = 2.5f;
  const Choice c = choose(e, {0, 5, 1});
  EXPECT_FLOAT_EQ(c.weights[0] + c.weights[1], 2.5f);
  EXPECT_FLOAT_EQ(c.weights[0] / c.weights[1], sigmoid(5) / sigmoid(1));
  // All scores 0 in fp32: weights 0, no NaN.
  const Choice none = choose(e, {-200, -200, -200});
  EXPECT_EQ(none.weights, (std::vector<float>{0, 0}));
}

TEST(ExpertChoice, NanIsRoutedSomewhere) {
  Experts e = sigmoids(4, 2);
  e.groups = 2;
  e.used_groups = 1;
  const Choice c = choose(e, std::vector<float>(4, NAN), {0, 0, 0, 0});
  for (const int id : c.ids) EXPECT_TRUE(id >= 0 && id < 4) << id;
  EXPECT_TRUE(std::isnan(c.weights[0]) && std::isnan(c.weights[1]));
}

}  // namespace
}  // namespace tutti::models
