// The builder against the trees that the paper's authors published, against brute force, and
// against simulated draws.
#include "decode/speculative/tree_builder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <sstream>
#include <string>

#include "base/draws.h"
#include "decode/speculative/tree_policy.h"

namespace tutti::decode::speculative {
namespace {

// Measured by the authors for Vicuna-7B, recovered from their tree files (hmarkc/
// parallel-prompt-decoding, dynamic_sparse_trees_3_vicuna_7b.py): the first row stands there, the
// others are quotients of products of five digits.
const AcceptanceTable kVicuna7b{
    {.48335, .14342, .0736, .0454, .03087, .02155, .01658, .01323, .00932, .00845},
    {.26256, .14561, .08114, .0576, .04283, .0323, .0257, .02152, .01903, .0155},
    {.16413, .11756, .08092, .05784, .04586, .03672, .03128, .02317, .02372, .01789}};

// Of the published trees: rows without the root and its prompts, candidates and prompts of states 2
// and 3, and tokens a forward that follow from them (computed from the files in Python; the sheet
// has the same numbers), by both counts.
struct Published {
  int rows;
  int nodes[2], prompts[2];
  double tokens, with_idle_steps;
};
const Published kPublished[] = {{60, {20, 20}, {40, 40}, 2.2446, 2.0620},
                                {75, {25, 25}, {50, 50}, 2.2938, 2.1182},
                                {90, {29, 30}, {61, 60}, 2.3342, 2.1559},
                                {105, {33, 34}, {72, 71}, 2.3667, 2.1841},
                                {120, {37, 39}, {83, 81}, 2.3928, 2.2067}};

int prompts_behind_candidates(const StateTree& tree) {
  return prompts_of(tree) - tree.front().prompts;
}

TEST(TreeBuilder, SearchFindsThePublishedTrees) {
  for (const Published& p : kPublished) {
    SCOPED_TRACE(p.rows);
    const DynamicTree trees = search_trees(kVicuna7b, p.rows);
    ASSERT_EQ(trees.size(), 4u);
    EXPECT_EQ(trees[1].size(), 11u);
    EXPECT_EQ(prompts_behind_candidates(trees[1]), 30);
    for (int i = 0; i < 2; ++i) {
      const StateTree& tree = trees[size_t(i) + 2];
      EXPECT_EQ(int(tree.size()) - 1, p.nodes[i]);
      EXPECT_NEAR(prompts_behind_candidates(tree), p.prompts[i], 2);
      EXPECT_EQ(tree.front().prompts, 3);
    }
    EXPECT_NEAR(steady_state(trees).tokens, p.tokens, 1e-3);
    EXPECT_NEAR(steady_state(trees, NothingStood::kIdleStep).tokens, p.with_idle_steps, 1e-3);
  }
}

// Paths and prompts of the published trees of 105 rows, states 2 and 3.
const char* const kState2 =
    "0:3 1:3 00:3 2:2 01:3 3:2 02:3 10:3 4:2 03:2 5:2 11:2 04:2 20:2 6:2 05:2 7:2 06:2 30:2 12:2 "
    "21:2 07:2 8:2 08:2 9:2 13:2 40:2 09:2 31:2 14:2 22:2 50:2 15:2";
const char* const kState3 =
    "0:3 1:3 00:3 2:2 01:2 3:2 02:2 10:2 4:2 03:2 5:2 11:2 000:2 04:2 20:2 6:2 05:2 001:2 7:2 06:2 "
    "30:2 12:2 010:2 21:2 07:2 002:2 8:2 08:2 9:2 011:2 13:2 40:2 09:2 003:2";

TEST(TreeBuilder, NodesAndPromptsAreThePublishedOnes) {
  const DynamicTree trees = build_trees(kVicuna7b, {10, 33, 34}, 105);
  for (const auto& [state, published] : {std::pair(2, kState2), {3, kState3}}) {
    std::set<std::string> expected, found;
    std::istringstream words(published);
    for (std::string word; words >> word;) expected.insert(word);
    for (size_t i = 1; i < trees[size_t(state)].size(); ++i) {
      const PlannedNode& node = trees[size_t(state)][i];
      std::string word;
      for (const int rank : node.path) word += char('0' + rank);
      found.insert(word + ":" + std::to_string(node.prompts));
    }
    EXPECT_EQ(found, expected);
  }
  const SteadyState steady = steady_state(trees);
  EXPECT_NEAR(steady.occupancy[1], 0, 1e-3);
  EXPECT_NEAR(steady.occupancy[2], 0.474, 1e-3);
  EXPECT_NEAR(steady.occupancy[3], 0.526, 1e-3);
}

TEST(TreeBuilder, CandidatesAreTheLikeliestPaths) {
  Draws draws(3);
  for (int round = 0; round < 50; ++round) {
    AcceptanceTable table(size_t(1 + draws.below(3)));
    for (auto& row : table) {
      for (int a = 0; a < 3; ++a) row.push_back(double(draws.uniform(0, 0.33f)));
    }
    std::vector<double> all;  // reach of every path
    for (size_t d = 0, width = 1; d < table.size(); ++d) {
      width *= 3;
      for (size_t path = 0; path < width; ++path) {
        double reach = 1;
        for (size_t i = 0, rest = path; i <= d; ++i, rest /= 3) reach *= table[i][rest % 3];
        all.push_back(reach);
      }
    }
    std::sort(all.rbegin(), all.rend());
    const int nodes = 1 + draws.below(int(all.size()));
    const StateTree tree = candidate_tree(table, int(table.size()), nodes, 3);
    ASSERT_EQ(int(tree.size()), nodes + 1);
    double sum = 0;
    for (int i = 1; i <= nodes; ++i) EXPECT_NEAR(tree[size_t(i)].reach, all[size_t(i) - 1], 1e-15);
    for (const PlannedNode& node : tree) {
      EXPECT_GT(node.last, -1e-12);
      sum += node.last;
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

// Tokens per step of a million steps in which every row's token is drawn by itself.
double simulated(const AcceptanceTable& table, const DynamicTree& trees, uint64_t seed) {
  Draws draws(seed);
  size_t state = trees.size() - 1;
  constexpr int kSteps = 1000000;
  int64_t tokens = 0;
  for (int step = 0; step < kSteps; ++step) {
    const StateTree& tree = trees[state];
    size_t at = 0;
    for (size_t depth = 0; depth < table.size(); ++depth) {
      double u = double(draws.uniform(0, 1));
      int rank = 0;
      while (rank < int(table[depth].size()) && (u -= table[depth][size_t(rank)]) >= 0) ++rank;
      std::vector<int> path = tree[at].path;
      path.push_back(rank);
      size_t child = 1;
      while (child < tree.size() && tree[child].path != path) ++child;
      if (child == tree.size()) break;
      at = child;
      ++tokens;
    }
    ++tokens;
    state = size_t(tree[at].prompts);
  }
  return double(tokens) / kSteps;
}

TEST(TreeBuilder, SteadyStateIsWhatSimulatedDrawsGive) {
  for (const int rows : {20, 60}) {
    const DynamicTree trees = search_trees(kVicuna7b, rows);
    const double tokens = steady_state(trees).tokens;
    EXPECT_NEAR(simulated(kVicuna7b, trees, 11), tokens, 0.005 * tokens);
  }
  // Without prompts behind most nodes, states below the paper's least are visited.
  const DynamicTree trees = best_trees(kVicuna7b, [](int r) { return 1 + 0.08 * r; });
  const SteadyState steady = steady_state(trees);
  EXPECT_NEAR(simulated(kVicuna7b, trees, 12), steady.tokens, 0.005 * steady.tokens);
}

// Of chains that hardly ever change their state: by hand.
TEST(TreeBuilder, SteadyStatesOfSlowChainsAreFound) {
  const auto node = [](std::vector<int> path, double reach, int prompts) {
    PlannedNode n;
    n.path = std::move(path);
    n.reach = reach;
    n.prompts = prompts;
    return n;
  };
  DynamicTree trees{{node({}, 1, 0)},
                    {node({}, 1, 1), node({0}, 1e-9, 0)},  // and never back
                    {node({}, 1, 2), node({0}, 1e-12, 1)}};
  for (StateTree& tree : trees) set_last(tree);
  const SteadyState ends = steady_state(trees);
  EXPECT_NEAR(ends.occupancy[0], 1, 1e-9);
  EXPECT_NEAR(ends.tokens, 1, 1e-9);
  // From 1 to 2 with 1e-9, from 2 to 1 with 3e-9.
  trees[1] = {node({}, 1, 1), node({0}, 1e-9, 2)};
  trees[2] = {node({}, 1, 2), node({0}, 3e-9, 1)};
  for (StateTree& tree : trees) set_last(tree);
  const SteadyState turns = steady_state(trees);
  EXPECT_NEAR(turns.occupancy[1], 0.75, 1e-6);
  EXPECT_NEAR(turns.occupancy[2], 0.25, 1e-6);
}

// Every tree of a state with at most `rows` rows: which nodes, and how many prompts behind each.
std::vector<StateTree> all_trees(const AcceptanceTable& table, size_t depth, int rows) {
  std::vector<StateTree> shapes{StateTree(1)}, all;
  for (size_t s = 0; s < shapes.size(); ++s) {  // grows
    const StateTree tree = shapes[s];
    if (int(tree.size()) == rows) continue;
    for (const PlannedNode& parent : tree) {
      if (parent.path.size() == depth) continue;
      for (int rank = 0; rank < int(table[parent.path.size()].size()); ++rank) {
        PlannedNode child = parent;
        child.path.push_back(rank);
        child.reach *= table[parent.path.size()][size_t(rank)];
        // Each set of nodes once: in the order of their paths.
        if (tree.size() > 1 && child.path <= tree.back().path) continue;
        shapes.push_back(tree);
        shapes.back().push_back(child);
      }
    }
  }
  for (StateTree& shape : shapes) {
    set_last(shape);
    std::vector<StateTree> some{shape};
    for (size_t i = 0; i < shape.size(); ++i) {
      const size_t before = some.size();
      for (size_t j = 0; j < before; ++j) {
        for (int n = 1; n <= int(table.size()); ++n) {
          if (rows_of(some[j]) + n > rows) break;
          some.push_back(some[j]);
          some.back()[i].prompts = n;
        }
      }
    }
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

TEST(TreePolicy, NoTreesOfFewRowsAreFasterThanThoseItFinds) {
  const AcceptanceTable table{{0.4, 0.15, 0.06}, {0.2, 0.1, 0.05}};
  constexpr int kRows = 5;
  for (const double price : {0.02, 0.07, 0.12, 0.3}) {
    const RowSeconds seconds = [&](int rows) { return 1 + price * (rows - 1); };
    double most = 0;
    const auto none = all_trees(table, 0, kRows), one = all_trees(table, 1, kRows),
               two = all_trees(table, 2, kRows);
    ASSERT_GT(two.size(), 200u);
    for (const StateTree& t0 : none) {
      for (const StateTree& t1 : one) {
        for (const StateTree& t2 : two)
          most = std::max(most, tokens_per_second({t0, t1, t2}, seconds));
      }
    }
    const double found = tokens_per_second(best_trees(table, seconds, {kRows, 3}), seconds);
    EXPECT_GE(found, most * (1 - 1e-9)) << "price " << price;
    EXPECT_LE(found, most * (1 + 1e-9)) << "of more rows than allowed?";
    // The paper's search, whose roots keep all prompts and whose nodes keep one, cannot be better.
    const DynamicTree paper = build_trees(table, {1, 1}, 2);
    EXPECT_LE(tokens_per_second(paper, seconds), found + 1e-9);
  }
}

TEST(TreePolicy, RowsThatCostNothingAreAllUsedAndDearOnesNot) {
  const auto free_rows = best_trees(kVicuna7b, [](int) { return 1.0; }, {40, 10});
  EXPECT_EQ(rows_of(free_rows[3]), 40);
  EXPECT_GT(steady_state(free_rows).tokens, steady_state(search_trees(kVicuna7b, 36)).tokens);
  const auto dear = best_trees(kVicuna7b, [](int rows) { return double(rows); });
  EXPECT_EQ(steady_state(dear).tokens, 1);
  for (const StateTree& tree : dear) EXPECT_EQ(tree.size(), 1u);
}

}  // namespace
}  // namespace tutti::decode::speculative
