#include "train/aten/filter_training.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/draws.h"
#include "base/error.h"

namespace tutti::train {
namespace {

// All positions are right when the block is sure as a whole: no position says so by itself.
FilterTrainingRequest together(int block, int records) {
  FilterTrainingRequest r;
  r.block = block;
  r.epochs = 1500;
  Draws draws(9);
  for (int i = 0; i < records; ++i) {
    float sum = 0;
    for (int j = 0; j < block; ++j) {
      r.probabilities.push_back(draws.uniform(0, 1));
      sum += r.probabilities.back();
    }
    r.right.insert(r.right.end(), size_t(block), sum > 0.5f * float(block) ? 1.0f : 0.0f);
  }
  return r;
}

TEST(FilterTraining, LearnsWhatAThresholdCannot) {
  FilterTrainingRequest r = together(6, 2000);
  const FilterTrainingResult whole = train_filter(r);
  r.apart = true;
  const FilterTrainingResult apart = train_filter(r);
  EXPECT_LT(whole.test.validation_loss, 0.3 * apart.test.validation_loss);
  EXPECT_LT(whole.epochs.back().loss, whole.epochs.front().loss);
  // The baseline is a threshold of each position: w1 diagonal and positive, w2 the identity.
  for (size_t i = 0; i < 6; ++i) {
    for (size_t j = 0; j < 6; ++j) {
      EXPECT_EQ(apart.w2[i * 6 + j], i == j ? 1.0f : 0.0f);
      if (i == j) EXPECT_GT(apart.w1[i * 6 + j], 0.0f);
      if (i != j) EXPECT_EQ(apart.w1[i * 6 + j], 0.0f);
    }
  }
}

// The loss that is reported is that of the weights that come back, computed here from the formula.
TEST(FilterTraining, ReportsTheLossOfItsWeights) {
  FilterTrainingRequest r = together(4, 500);
  r.epochs = 300;
  const FilterTrainingResult result = train_filter(r);
  double best = result.epochs.front().validation_loss;
  for (const FilterEpoch& e : result.epochs) best = std::min(best, e.validation_loss);
  // All records: their loss lies near that of the training part.
  double sum = 0;
  for (size_t i = 0; i < 500; ++i) {
    std::vector<double> hidden(4);
    for (size_t h = 0; h < 4; ++h) {
      hidden[h] = double(result.b1[h]);
      for (size_t k = 0; k < 4; ++k)
        hidden[h] += double(result.w1[h * 4 + k]) * double(r.probabilities[i * 4 + k]);
      hidden[h] = std::max(hidden[h], 0.0);
    }
    for (size_t o = 0; o < 4; ++o) {
      double z = double(result.b2[o]);
      for (size_t h = 0; h < 4; ++h) z += double(result.w2[o * 4 + h]) * hidden[h];
      sum += std::log1p(std::exp(r.right[i * 4 + o] > 0.5f ? -z : z));
    }
  }
  EXPECT_NEAR(sum / 2000, best, 0.25 * best);
}

TEST(FilterTraining, ASeedReproduces) {
  FilterTrainingRequest r = together(5, 200);
  r.epochs = 50;
  const FilterTrainingResult a = train_filter(r), b = train_filter(r);
  EXPECT_EQ(a.w1, b.w1);
  EXPECT_EQ(a.b2, b.b2);
  r.seed = 2;
  EXPECT_NE(train_filter(r).w1, a.w1);
}

TEST(FilterTraining, OddSizes) {
  FilterTrainingRequest one = together(1, 100);
  one.epochs = 20;
  EXPECT_EQ(train_filter(one).w1.size(), 1u);
  EXPECT_THROW(train_filter(together(4, 19)), Error);
}

}  // namespace
}  // namespace tutti::train
