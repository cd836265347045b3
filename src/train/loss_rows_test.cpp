// The losses: which rows predict what, with what weight, and that noise is a function of (seed,
// example).
#include "train/loss_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/error.h"

namespace tutti::train {
namespace {

constexpr int kMask = 90;

models::Config config(models::AttentionKind attention, bool shifted = false, int block = 0) {
  models::Config c;
  c.layers = 1;
  c.vocab = 100;
  c.attention = attention;
  c.shifted_logits = shifted;
  c.attention_block = block;
  c.mask_token = kMask;
  return c;
}

Example example(int n, int prompt) {
  Example e;
  for (int i = 0; i < n; ++i) e.tokens.push_back(i + 1);
  e.prompt = prompt;
  return e;
}

double total(const std::vector<LossSequence>& sequences) {
  double sum = 0;
  for (const LossSequence& s : sequences) {
    for (const double w : s.weights) sum += w;
  }
  return sum;
}

using models::AttentionKind;

TEST(NextToken, EveryAnswerTokenIsPredictedByTheRowBefore) {
  const auto sequences = loss_sequences({}, config(AttentionKind::kCausal),
                                        std::vector{example(6, 3), example(4, 0)}, 1, 0);
  EXPECT_EQ(sequences[0].predicted, (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(sequences[0].targets, (std::vector<int32_t>{4, 5, 6}));
  EXPECT_EQ(sequences[0].sequence.tokens, example(6, 3).tokens);
  EXPECT_EQ(sequences[1].predicted, (std::vector<int>{0, 1, 2}));  // nothing stands before token 0
  for (const double w : sequences[0].weights) EXPECT_DOUBLE_EQ(w, 1.0 / 6);  // a mean over all six
}

// Prompts are never masked, masked rows hold the mask and predict what stood there, others are
// untouched.
TEST(Masked, NoiseFallsOnAnswersOnly) {
  for (const bool shifted : {false, true}) {
    const models::Config c = config(AttentionKind::kBidirectional, shifted);
    LossOptions o;
    o.kind = LossKind::kMasked;
    for (int step = 0; step < 50; ++step) {
      for (const int prompt : {0, 4}) {
        const Example e = example(12, prompt);
        const LossSequence s = loss_sequences(o, c, std::vector{e}, 7, uint64_t(step))[0];
        ASSERT_EQ(s.rates.size(), 1u);
        std::map<int, size_t> of_token;
        for (size_t i = 0; i < s.predicted.size(); ++i)
          of_token[s.predicted[i] + (shifted ? 1 : 0)] = i;
        for (int i = 0; i < 12; ++i) {
          const auto found = of_token.find(i);
          const bool masked = found != of_token.end();
          EXPECT_EQ(s.sequence.tokens[size_t(i)], masked ? kMask : e.tokens[size_t(i)]);
          if (!masked) continue;
          EXPECT_GE(i, std::max(prompt, shifted ? 1 : 0));
          EXPECT_EQ(s.targets[found->second], e.tokens[size_t(i)]);
          const int answer = 12 - std::max(prompt, shifted ? 1 : 0);
          EXPECT_NEAR(s.weights[found->second], 1 / s.rates[0] / answer, 1e-12);
        }
      }
    }
  }
}

// E[sum over masked of 1/p] is the number of tokens: the weights make the loss an unbiased mean.
TEST(Masked, InverseWeightsAreUnbiased) {
  for (const bool stratified : {false, true}) {
    LossOptions o;
    o.kind = LossKind::kMasked;
    o.stratified = stratified;
    o.low = 0.05;  // 1/p has no variance to speak of
    const models::Config c = config(AttentionKind::kBidirectional);
    const std::vector<Example> examples(16, example(20, 5));
    double sum = 0, squares = 0;
    constexpr int kSteps = 400;
    for (int step = 0; step < kSteps; ++step) {
      const double one =
          total(loss_sequences(o, c, examples, 11, uint64_t(step) * examples.size()));
      sum += one;
      squares += one * one;
    }
    const double mean = sum / kSteps, error = std::sqrt((squares / kSteps - mean * mean) / kSteps);
    EXPECT_NEAR(mean, 1, 4 * error);
    EXPECT_LT(error, 0.02);
  }
}

TEST(Masked, RatesAreUniformAndStratifiedOnesFillTheirStrata) {
  LossOptions o;
  o.kind = LossKind::kMasked;
  o.epsilon = 0;
  o.stratified = true;
  const models::Config c = config(AttentionKind::kBidirectional);
  const std::vector<Example> examples(10, example(5, 0));
  double mean = 0;
  for (int step = 0; step < 100; ++step) {
    const auto sequences = loss_sequences(o, c, examples, 3, uint64_t(step) * examples.size());
    for (size_t i = 0; i < 10; ++i) {
      EXPECT_GT(sequences[i].rates[0], double(i) / 10);
      EXPECT_LT(sequences[i].rates[0], double(i + 1) / 10);
    }
    o.stratified = false;
    for (const auto& s : loss_sequences(o, c, examples, 3, uint64_t(step) * examples.size()))
      mean += s.rates[0] / 1000;
    o.stratified = true;
  }
  EXPECT_NEAR(mean, 0.5, 4 * std::sqrt(1 / 12.0 / 1000));
  o.low = 0.3;
  o.high = 0.8;
  o.epsilon = 0.1;
  for (const auto& s : loss_sequences(o, c, examples, 3, 0)) {
    EXPECT_GE(s.rates[0], 0.9 * 0.3 + 0.1);
    EXPECT_LE(s.rates[0], 0.9 * 0.8 + 0.1);
  }
}

TEST(Masked, MeansDivideByWhatTheyAreNamedAfter) {
  const models::Config c = config(AttentionKind::kBidirectional);
  const std::vector<Example> examples{example(10, 2), example(7, 3)};
  LossOptions o;
  o.kind = LossKind::kMasked;
  o.weight = TimeWeight::kOne;
  const auto weight_of = [&](LossMean mean, size_t sequence) {
    o.mean = mean;
    for (int step = 0;; ++step) {
      const auto sequences = loss_sequences(o, c, examples, 1, uint64_t(step) * examples.size());
      if (sequences[0].predicted.empty() || sequences[1].predicted.empty()) continue;
      if (mean == LossMean::kMasked) {
        EXPECT_NEAR(total(sequences), 1, 1e-12);
      }
      return sequences[sequence].weights[0];
    }
  };
  EXPECT_DOUBLE_EQ(weight_of(LossMean::kTokens, 0), 1.0 / 12);
  EXPECT_DOUBLE_EQ(weight_of(LossMean::kTokens, 1), 1.0 / 12);
  EXPECT_DOUBLE_EQ(weight_of(LossMean::kSequences, 0), 1.0 / 2 / 8);
  EXPECT_DOUBLE_EQ(weight_of(LossMean::kSequences, 1), 1.0 / 2 / 4);
  weight_of(LossMean::kMasked, 0);
}

// Written as Dream's formula, from the unmasked tokens' side.
TEST(Masked, ContextWeightsAreTwoSidedGeometric) {
  const std::vector<bool> masked{true, false, true, true, false, true};
  const double q = 0.3;
  std::vector<double> expected(masked.size());
  for (size_t j = 0; j < masked.size(); ++j) {
    if (masked[j]) continue;
    double share = q / 2;
    for (size_t d = 1; d < masked.size(); ++d, share *= 1 - q) {
      if (j >= d) expected[j - d] += share;
      if (j + d < masked.size()) expected[j + d] += share;
    }
  }
  const std::vector<double> got = context_weights(masked, q);
  for (size_t i = 0; i < masked.size(); ++i)
    EXPECT_NEAR(got[i], masked[i] ? expected[i] : 0, 1e-12);
}

TEST(Block, NoisyAndCleanHalvesShareTheirPositions) {
  const models::Config c = config(AttentionKind::kBlockCausal, false, 4);
  LossOptions o;
  o.kind = LossKind::kBlock;
  o.time_per_block = true;
  const Example e = example(10, 3);
  bool different = false;
  for (int step = 0; step < 20; ++step) {
    const LossSequence s = loss_sequences(o, c, std::vector{e}, 5, uint64_t(step))[0];
    ASSERT_EQ(s.sequence.rows(), 20);
    EXPECT_EQ(s.sequence.sight, Sight::kBlockDiffusion);
    EXPECT_EQ(s.sequence.block, 4);
    ASSERT_EQ(s.rates.size(), 3u);
    different = different || s.rates[0] != s.rates[1];
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(s.sequence.positions[size_t(i)], i);
      EXPECT_EQ(s.sequence.positions[size_t(10 + i)], i);
      EXPECT_EQ(s.sequence.tokens[size_t(10 + i)], e.tokens[size_t(i)]);
    }
    for (size_t i = 0; i < s.predicted.size(); ++i) {
      const int token = s.predicted[i];
      ASSERT_GE(token, 3);
      ASSERT_LT(token, 10);
      EXPECT_EQ(s.sequence.tokens[size_t(token)], kMask);
      EXPECT_NEAR(s.weights[i], 1 / s.rates[size_t(token / 4)] / 7, 1e-12);
    }
  }
  EXPECT_TRUE(different);
}

TEST(Noise, IsAFunctionOfSeedAndExample) {
  const models::Config c = config(AttentionKind::kBidirectional);
  LossOptions o;
  o.kind = LossKind::kMasked;
  const Example e = example(30, 0);
  // Example 6 alone, in a step of two, and in a step of three.
  const auto alone = loss_sequences(o, c, std::vector{e}, 9, 6)[0];
  const auto in_two = loss_sequences(o, c, std::vector{e, e}, 9, 5)[1];
  const auto in_three = loss_sequences(o, c, std::vector{e, e, e}, 9, 4)[2];
  EXPECT_EQ(alone.predicted, in_two.predicted);
  EXPECT_EQ(alone.predicted, in_three.predicted);
  EXPECT_NE(alone.predicted, loss_sequences(o, c, std::vector{e}, 10, 6)[0].predicted);
  EXPECT_NE(alone.predicted, loss_sequences(o, c, std::vector{e}, 9, 7)[0].predicted);
}

// Every active token is masked in exactly one of the two copies; the prompt and the blocks before
// are clean, what follows is masked and not predicted; every block's turn comes.
TEST(Certainty, PairsAreComplementary) {
  for (const bool shifted : {false, true}) {
    const models::Config c = config(AttentionKind::kBidirectional, shifted);
    LossOptions o;
    o.kind = LossKind::kCertainty;
    for (const int block : {0, 4, 5, 64}) {
      o.certainty_block = block;
      for (const int prompt : {0, 3}) {
        const Example e = example(18, prompt);
        const int first = std::max(prompt, shifted ? 1 : 0);
        std::map<int, int> begins;
        double masked_first = 0, active = 0;
        for (int step = 0; step < 300; ++step) {
          const auto pair = loss_sequences(o, c, std::vector{e}, 4, uint64_t(step));
          ASSERT_EQ(pair.size(), 2u);
          std::map<int, int> copy_of;  // by position
          for (int copy = 0; copy < 2; ++copy) {
            for (size_t i = 0; i < pair[size_t(copy)].predicted.size(); ++i) {
              const int at = pair[size_t(copy)].predicted[i] + (shifted ? 1 : 0);
              EXPECT_TRUE(copy_of.emplace(at, copy).second) << "predicted twice";
              EXPECT_EQ(pair[size_t(copy)].targets[i], e.tokens[size_t(at)]);
            }
          }
          const int begin = copy_of.begin()->first, end = copy_of.rbegin()->first + 1;
          EXPECT_EQ(int(copy_of.size()), end - begin);
          EXPECT_EQ(end, block == 0 ? 18 : std::min(begin + block, 18));
          ++begins[begin];
          for (int copy = 0; copy < 2; ++copy) {
            const LossSequence& s = pair[size_t(copy)];
            for (int i = 0; i < 18; ++i) {
              const bool masked = i >= end || (i >= begin && copy_of.at(i) == copy);
              EXPECT_EQ(s.sequence.tokens[size_t(i)], masked ? kMask : e.tokens[size_t(i)]);
            }
            for (const double w : s.weights) EXPECT_DOUBLE_EQ(w, 1.0 / double(s.weights.size()));
            EXPECT_DOUBLE_EQ(s.certainty, 2.0);
          }
          masked_first += double(pair[0].predicted.size());
          active += double(copy_of.size());
        }
        EXPECT_NEAR(masked_first / active, 0.5, 4 * 0.5 / std::sqrt(active));
        const int blocks = block == 0 ? 1 : (18 - first + block - 1) / block;
        EXPECT_EQ(int(begins.size()), blocks);
        for (const auto& [begin, n] : begins) EXPECT_EQ((begin - first) % std::max(block, 1), 0);
      }
    }
  }
}

TEST(Cut, ShortensTheShareOfSequencesThatItNames) {
  const models::Config c = config(AttentionKind::kCausal);
  LossOptions o;
  o.cut = 0.25;
  int cut = 0;
  std::map<size_t, int> lengths;
  for (int step = 0; step < 2000; ++step) {
    const auto s = loss_sequences(o, c, std::vector{example(8, 0)}, 9, step)[0];
    ++lengths[s.sequence.tokens.size()];
    cut += s.sequence.tokens.size() < 8;
  }
  EXPECT_EQ(lengths.begin()->first, 1u);
  EXPECT_EQ(lengths.size(), 8u);
  EXPECT_NEAR(cut, 2000 * 0.25 * 7 / 8, 4 * std::sqrt(2000 * 0.22 * 0.78));
}

TEST(Loss, GoesWithHowTheModelSees) {
  LossOptions o;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kBidirectional)), Error);
  EXPECT_NO_THROW(check_loss(o, config(AttentionKind::kCausal)));
  o.kind = LossKind::kMasked;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kCausal)), Error);
  EXPECT_NO_THROW(check_loss(o, config(AttentionKind::kBidirectional)));
  o.kind = LossKind::kCertainty;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kBlockCausal, false, 4)), Error);
  EXPECT_NO_THROW(check_loss(o, config(AttentionKind::kBidirectional)));
  o.kind = LossKind::kBlock;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kBidirectional)), Error);
  EXPECT_NO_THROW(check_loss(o, config(AttentionKind::kBlockCausal, false, 4)));
  models::Config maskless = config(AttentionKind::kBlockCausal, false, 4);
  maskless.mask_token = -1;
  EXPECT_THROW(check_loss(o, maskless), Error);
}

// The given tokens see each other, a query sees them and the masked content of lower ranks, and
// never its own.
TEST(AnySubset, RowsSeeWhatIsGivenAndDecided) {
  LossOptions o;
  o.kind = LossKind::kAnySubset;
  o.mean = LossMean::kMasked;
  o.low = 0.3;
  o.high = 0.9;
  const models::Config c = config(AttentionKind::kPermutation);
  for (int step = 0; step < 60; ++step) {
    o.random_order = step % 3 == 1;
    o.independent = step % 3 == 2;
    const Example e = example(14, step % 2 == 0 ? 0 : 5);
    const LossSequence s = loss_sequences(o, c, std::vector{e}, 7, step)[0];
    const Sequence& q = s.sequence;
    const int n = 14, masked = int(s.targets.size());
    ASSERT_EQ(q.rows(), n + masked);
    EXPECT_GE(masked, 1);
    EXPECT_NEAR(total({s}), 1.0, 1e-12);
    std::vector<int> order = q.queries;
    if (!o.random_order) EXPECT_TRUE(std::ranges::is_sorted(order));
    for (int k = 0; k < masked; ++k) {
      EXPECT_EQ(s.predicted[size_t(k)], n + k);
      EXPECT_GE(order[size_t(k)], e.prompt);
      EXPECT_EQ(s.targets[size_t(k)], e.tokens[size_t(order[size_t(k)])]);
      EXPECT_EQ(q.positions[size_t(n + k)], order[size_t(k)]);
      EXPECT_EQ(q.tokens[size_t(n + k)], -1);
    }
    const auto rank = [&](int position) {
      const auto at = std::ranges::find(order, position) - order.begin();
      return at < masked ? int(at) : -1;
    };
    for (int row = 0; row < q.rows(); ++row) {
      const bool query = row >= n;
      const int own = query ? order[size_t(row - n)] : row;
      std::vector<bool> sees(static_cast<size_t>(n));
      for (const RowRange& r : visible(q, row)) {
        for (int i = r.first; i < r.first + r.count; ++i) sees[size_t(i)] = true;
      }
      for (int i = 0; i < n; ++i) {
        const bool before = rank(i) < 0 || (!o.independent && rank(i) < rank(own));
        EXPECT_EQ(sees[size_t(i)], before || (!query && i == own))
            << step << " " << row << " " << i;
      }
    }
  }
}

TEST(AnySubset, NeedsTwoStreams) {
  LossOptions o;
  o.kind = LossKind::kAnySubset;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kBidirectional)), Error);
  EXPECT_NO_THROW(check_loss(o, config(AttentionKind::kPermutation)));
  o.kind = LossKind::kMasked;
  EXPECT_THROW(check_loss(o, config(AttentionKind::kPermutation)), Error);
}

}  // namespace
}  // namespace tutti::train
