// Trees from levels of guesses: the best of all trees, by trying all of them.
#include "decode/speculative/level_tree.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/draws.h"

namespace tutti::decode::speculative {
namespace {

std::vector<Level> random_levels(Draws& draws, int levels, int widest) {
  std::vector<Level> out;
  for (int d = 0; d < levels; ++d) {
    Level level;
    double most = 1;
    for (int r = 1 + draws.below(widest); r > 0; --r) {
      most *= double(draws.uniform(0.1f, 1));
      level.push_back({int32_t(10 * d + r), 7 * d + r, most});
    }
    out.push_back(std::move(level));
  }
  return out;
}

// The products of all paths of one guess per level, descending.
std::vector<double> all_reaches(const std::vector<Level>& levels) {
  std::vector<double> all, ends{1};
  for (const Level& level : levels) {
    std::vector<double> next;
    for (const double before : ends) {
      for (const Guess& g : level) next.push_back(before * g.acceptance);
    }
    all.insert(all.end(), next.begin(), next.end());
    ends = std::move(next);
  }
  std::sort(all.rbegin(), all.rend());
  return all;
}

TEST(LevelTree, TakesTheDraftsOfLargestReach) {
  Draws draws(5);
  for (int i = 0; i < 300; ++i) {
    const auto levels = random_levels(draws, 1 + draws.below(4), 4);
    const auto all = all_reaches(levels);
    const int nodes = 1 + draws.below(30);
    const Tree tree = best_tree(3, levels, nodes);
    ASSERT_EQ(tree.drafted(), std::min(nodes, int(all.size())));
    std::vector<double> reach;
    for (int n = 1; n < tree.size(); ++n) reach.push_back(tree[n].reach);
    std::sort(reach.rbegin(), reach.rend());
    for (size_t n = 0; n < reach.size(); ++n) ASSERT_NEAR(reach[n], all[n], 1e-12);
  }
}

TEST(LevelTree, AGuessCountsForNoMoreThanABetterOne) {
  const std::vector<Level> levels{{{5, 0, 0.3}, {6, 1, 0.8}}};
  const Tree tree = best_tree(1, levels, 9);
  ASSERT_EQ(tree.drafted(), 2);
  EXPECT_EQ(tree[1].token, 5);
  EXPECT_DOUBLE_EQ(tree[2].reach, 0.3);
  EXPECT_EQ(tree[2].kind, 1);
}

TEST(LevelTree, NamedPathsAreTaken) {
  const std::vector<Level> levels{{{5, 0, 0.5}, {6, 1, 0.2}}, {{7, 2, 0.5}}};
  const Tree tree = named_tree(1, levels, {{0}, {1, 0}, {0, 3}, {2}});
  EXPECT_EQ(tree.drafted(), 3);
  const int six = tree.child(Tree::kRoot, 6);
  EXPECT_GT(tree.child(six, 7), 0);
  EXPECT_DOUBLE_EQ(tree[tree.child(six, 7)].reach, 0.1);
  EXPECT_EQ(tree.children(tree.child(Tree::kRoot, 5)).size(), 0u);
  EXPECT_EQ(best_tree(1, {}, 5).drafted(), 0);
}

}  // namespace
}  // namespace tutti::decode::speculative
