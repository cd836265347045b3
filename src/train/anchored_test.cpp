// Which rows anchors have, what they see and predict, and that the draws belong to the example.
#include "train/anchored.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace tutti::train {
namespace {

models::Config causal() {
  models::Config c;
  c.layers = 1;
  c.vocab = 100;
  return c;
}

Example example(int n, int prompt) {
  Example e;
  for (int i = 0; i < n; ++i) e.tokens.push_back(i + 1);
  e.prompt = prompt;
  return e;
}

LossOptions prompt_tokens(int ahead, int anchors) {
  LossOptions o;
  o.kind = LossKind::kPromptTokens;
  o.ahead = ahead;
  o.anchors = anchors;
  o.decay = 0.5;
  return o;
}

TEST(Anchored, ChainsPredictWhatStandsFurtherOn) {
  // Of 10 tokens 4 are the prompt's: anchors are the rows 3 to 6, whose chains reach token 9.
  const LossSequence s = anchored(prompt_tokens(2, 99), causal(), example(10, 4), 1, 0);
  EXPECT_EQ(s.sequence.anchors, (std::vector<int>{3, 4, 5, 6}));
  EXPECT_EQ(s.predicted, (std::vector<int>{10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(s.sequence.positions,
            (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 5, 5, 6, 6, 7, 7, 8}));
  EXPECT_EQ(s.targets, (std::vector<int32_t>{6, 7, 7, 8, 8, 9, 9, 10}));  // token i is i + 1
  EXPECT_EQ(teachers(s), (std::vector<int>{4, 5, 5, 6, 6, 7, 7, 8}));
  for (size_t i = 0; i < s.weights.size(); ++i) EXPECT_EQ(s.weights[i], i % 2 == 0 ? 1 : 0.5);
  // Pair by pair: the text is causal; a chain's row sees the text up to its anchor, and its own
  // chain.
  for (int i = 0; i < s.sequence.rows(); ++i) {
    std::set<int> seen;
    for (const RowRange& range : visible(s.sequence, i)) {
      for (int j = range.first; j < range.first + range.count; ++j) seen.insert(j);
    }
    for (int j = 0; j < s.sequence.rows(); ++j) {
      const bool chain_i = i >= 10, chain_j = j >= 10;
      const bool sees = !chain_i   ? j <= i
                        : !chain_j ? j <= 3 + (i - 10) / 2
                                   : (i - 10) / 2 == (j - 10) / 2 && j <= i;
      EXPECT_EQ(seen.contains(j), sees) << i << " and " << j;
    }
  }
}

TEST(Anchored, DrawsAreOfTheExampleAndFewEnough) {
  const auto draw = [](uint64_t seed, uint64_t number) {
    return draw_anchors(example(100, 10), 3, 8, seed, number);
  };
  std::set<std::vector<int>> different;
  std::set<int> rows;
  for (uint64_t number = 0; number < 50; ++number) {
    const auto anchors = draw(5, number);
    EXPECT_EQ(anchors.size(), 8u);
    EXPECT_EQ(anchors, draw(5, number));
    different.insert(anchors);
    rows.insert(anchors.begin(), anchors.end());
  }
  EXPECT_EQ(different.size(), 50u);
  EXPECT_NE(draw(6, 0), draw(5, 0));
  EXPECT_GE(*rows.begin(), 9);
  EXPECT_EQ(*rows.rbegin(), 95);  // its chain predicts token 99
  EXPECT_GT(rows.size(), 80u);
  EXPECT_TRUE(draw_anchors(example(6, 2), 4, 8, 1, 0).empty());
}

TEST(Anchored, AStepIsAMeanOverPredictions) {
  LossOptions o = prompt_tokens(3, 4);
  o.decay = 1;
  const auto sequences =
      loss_sequences(o, causal(), std::vector{example(30, 3), example(4, 3)}, 1, 7);
  ASSERT_EQ(sequences.size(), 2u);
  EXPECT_TRUE(sequences[1].predicted.empty());  // too short
  double sum = 0;
  for (const double w : sequences[0].weights) sum += w;
  EXPECT_NEAR(sum, 1, 1e-12);
  models::Config masked = causal();
  masked.attention = models::AttentionKind::kBidirectional;
  EXPECT_THROW(check_loss(o, masked), Error);
}

// Rows of a batch taken by themselves keep what they are and see.
TEST(Anchored, PartsOfABatchKeepTheirRows) {
  Sequence s = plain_sequence(causal(), {1, 2, 3, 4, 5});
  add_chains(s, {1, 3}, 2);
  const models::Batch whole = plan_batch(causal(), std::vector{s, s});
  const std::vector<int> rows{5, 8, 9, 15};
  const models::Batch part = part_of(whole, rows);
  ASSERT_EQ(part.rows(), 4);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t r = size_t(rows[i]);
    EXPECT_EQ(part.inputs[i].kind, whole.inputs[r].kind);
    EXPECT_EQ(part.inputs[i].token, whole.inputs[r].token);
    EXPECT_EQ(part.positions[i], whole.positions[r]);
    EXPECT_EQ(part.slots[i].page, whole.slots[r].page);
    EXPECT_EQ(part.slots[i].slot, whole.slots[r].slot);
    const models::RunSpan &a = part.epochs[0].full[i], &b = whole.epochs[0].full[r];
    EXPECT_EQ(a.keys, b.keys);
    ASSERT_EQ(a.count, b.count);
    for (int j = 0; j < a.count; ++j) {
      const auto &x = part.runs[size_t(a.first + j)], &y = whole.runs[size_t(b.first + j)];
      EXPECT_TRUE(x.page == y.page && x.first == y.first && x.count == y.count);
    }
  }
  EXPECT_EQ(part.epochs[0].rows, (std::vector<int>{0, 1, 2, 3}));
}

}  // namespace
}  // namespace tutti::train
