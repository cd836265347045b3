// What is counted of guesses: shares by offset, and by kind where the guesses before had the right
// token among the first.
#include "train/guess_report.h"

#include <gtest/gtest.h>

#include "check/guess_kind.h"

namespace tutti::train {
namespace {

Guessed guess(int offset, int64_t target, std::vector<int64_t> tokens, std::vector<float> logits) {
  Guessed g;
  g.offset = offset;
  g.target = target;
  g.tokens = std::move(tokens);
  g.logits = std::move(logits);
  return g;
}

// A share that began as three guesses of a fifth.
double begun(double right, double seen) { return (right + 0.6) / (seen + 3); }

TEST(GuessReport, CountsSharesAndKinds) {
  const std::vector<float> sure{9, 4, 3, 2, 1, 0}, unsure{3.1f, 3, 2.9f, 2.8f, 2.7f, 2.6f};
  const std::vector<Guessed> guesses{
      guess(0, 7, {7, 1, 2, 3, 4, 5}, sure),    // first
      guess(1, 8, {1, 8, 2, 3, 4, 5}, unsure),  // second
      guess(0, 9, {1, 2, 3, 4, 9, 5}, unsure),  // fifth: beyond the branches of a tree
      guess(1, 8, {8, 1, 2, 3, 4, 5}, sure),    // right, but its path would not stand
      guess(0, 6, {1, 2, 3, 4, 5, 0}, sure),    // not there
      guess(1, 6, {1, 2, 3, 4, 5, 0}, unsure),
  };
  const GuessReport report = judge_guesses(guesses, 2);
  EXPECT_EQ(report.anchors, 3);
  ASSERT_EQ(report.accuracy.size(), 2u);
  EXPECT_EQ(report.accuracy[0], (std::array<double, 3>{1.0 / 3, 1.0 / 3, 2.0 / 3}));
  EXPECT_EQ(report.accuracy[1], (std::array<double, 3>{1.0 / 3, 2.0 / 3, 2.0 / 3}));
  const int lead = check::guess_kind(0, 9, 4, 9), none = check::guess_kind(0, 3.1, 3, 3.1),
            near = check::guess_kind(1, 3.1, 3, 3), far = check::guess_kind(1, 9, 4, 4);
  EXPECT_NE(lead, none);
  EXPECT_NE(near, far);
  const auto& first = report.acceptance[0];
  ASSERT_EQ(first.size(), size_t(check::kGuessKinds) + 1);
  EXPECT_DOUBLE_EQ(first[size_t(lead)], begun(1, 2));  // of the sure ones 7 came, 6 did not
  EXPECT_DOUBLE_EQ(first[size_t(none)], begun(0, 1));
  EXPECT_DOUBLE_EQ(first.back(), begun(1, 3));
  // Of the second offset only the first anchor counts.
  const auto& second = report.acceptance[1];
  EXPECT_DOUBLE_EQ(second[size_t(none)], begun(0, 1));
  EXPECT_DOUBLE_EQ(second[size_t(near)], begun(1, 3));  // three of four lie less than half behind
  EXPECT_DOUBLE_EQ(second[size_t(lead)], begun(0, 0));
  EXPECT_DOUBLE_EQ(second.back(), begun(0, 1));
}

}  // namespace
}  // namespace tutti::train
