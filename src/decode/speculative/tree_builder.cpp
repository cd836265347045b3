#include "decode/speculative/tree_builder.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <queue>

namespace tutti::decode::speculative {

void set_last(StateTree& tree) {
  std::map<std::vector<int>, size_t> at;
  for (size_t i = 0; i < tree.size(); ++i) {
    at[tree[i].path] = i;
    tree[i].last = tree[i].reach;
  }
  for (size_t i = 1; i < tree.size(); ++i) {
    std::vector<int> parent = tree[i].path;
    parent.pop_back();
    tree[at.at(parent)].last -= tree[i].reach;
  }
}

namespace {

double chance(const AcceptanceTable& acceptance, size_t depth, int rank, int width) {
  const auto& row = acceptance[depth];
  return rank < width && size_t(rank) < row.size() ? row[size_t(rank)] : 0.0;
}

struct ByReach {
  bool operator()(const PlannedNode& a, const PlannedNode& b) const {
    return a.reach != b.reach ? a.reach < b.reach : a.path > b.path;
  }
};

// Where the steps that end in state k go. Row k of a stochastic matrix.
std::vector<double> next_states(const StateTree& tree, size_t state, size_t states,
                                NothingStood then) {
  std::vector<double> to(states, 0.0);
  for (size_t i = 0; i < tree.size(); ++i) {
    const bool idle = i == 0 && state > 0 && then == NothingStood::kIdleStep;
    to[idle ? 0 : size_t(tree[i].prompts)] += std::max(tree[i].last, 0.0);  // not by rounding
  }
  return to;
}

using Matrix = std::vector<std::vector<double>>;

// Of a stochastic matrix, whose rows sum to 1 again.
Matrix squared(const Matrix& a) {
  const size_t n = a.size();
  Matrix out(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) {
    double sum = 0;
    for (size_t k = 0; k < n; ++k) {
      if (a[i][k] == 0) continue;
      for (size_t j = 0; j < n; ++j) out[i][j] += a[i][k] * a[k][j];
    }
    for (const double share : out[i]) sum += share;
    for (double& share : out[i]) share /= sum;
  }
  return out;
}

}  // namespace

int prompts_of(const StateTree& tree) {
  int sum = 0;
  for (const PlannedNode& node : tree) sum += node.prompts;
  return sum;
}

int rows_of(const StateTree& tree) { return int(tree.size()) + prompts_of(tree); }

double expected_of(const StateTree& tree) {
  double sum = 0;
  for (size_t i = 1; i < tree.size(); ++i) sum += tree[i].reach;
  return sum;
}

StateTree candidate_tree(const AcceptanceTable& acceptance, int depth, int nodes, int width) {
  StateTree tree(1);
  const size_t deepest = std::min(size_t(depth), acceptance.size());
  std::priority_queue<PlannedNode, StateTree, ByReach> next;
  // A row's ranks need not fall: all children of a node are put in at once.
  const auto offer = [&](const PlannedNode& parent) {
    const size_t d = parent.path.size();
    if (d >= deepest) return;
    for (int rank = 0; rank < width; ++rank) {
      PlannedNode child = parent;
      child.path.push_back(rank);
      child.reach *= chance(acceptance, d, rank, width);
      if (child.reach > 0) next.push(std::move(child));
    }
  };
  offer(tree.front());
  while (int(tree.size()) <= nodes && !next.empty()) {
    tree.push_back(next.top());
    next.pop();
    offer(PlannedNode(tree.back()));
  }
  set_last(tree);
  return tree;
}

void give_prompts(StateTree& tree, const std::vector<double>& value, int most, int rows,
                  int least) {
  int total = int(tree.size()) - 1;
  for (size_t i = 1; i < tree.size(); ++i) total += tree[i].prompts = most;
  while (total > rows) {
    size_t cheapest = 0;
    double least_loss = INFINITY;
    for (size_t i = 1; i < tree.size(); ++i) {
      const size_t n = size_t(tree[i].prompts);
      if (tree[i].prompts <= least) continue;
      const double loss = tree[i].last * (value[n] - value[n - 1]);
      if (loss < least_loss) {
        least_loss = loss;
        cheapest = i;
      }
    }
    if (cheapest == 0) return;  // no more can go
    --tree[cheapest].prompts;
    --total;
  }
}

DynamicTree build_trees(const AcceptanceTable& acceptance, const std::vector<int>& nodes, int rows,
                        int least) {
  const int most = int(acceptance.size());
  DynamicTree trees{StateTree(1)};
  std::vector<double> value{0};
  for (int k = 1; k <= most; ++k) {
    trees.push_back(candidate_tree(acceptance, k, nodes[size_t(k - 1)]));
    value.push_back(expected_of(trees.back()));
  }
  for (StateTree& tree : trees) {
    tree.front().prompts = most;
    give_prompts(tree, value, most, rows, least);
  }
  return trees;
}

SteadyState steady_state(const DynamicTree& trees, NothingStood then) {
  const size_t n = trees.size();
  // Half of each step stays where it is: the same stationary state, also where the chain
  // alternates.
  Matrix steps;
  for (size_t k = 0; k < n; ++k) {
    steps.push_back(next_states(trees[k], k, n, then));
    for (double& share : steps.back()) share /= 2;
    steps.back()[k] += 0.5;
  }
  // 1, 2, 4, … steps at once: however slowly the states mix, some 50 squarings are enough.
  constexpr int kMostSquarings = 64;
  double moved = 1;
  for (int i = 0; i < kMostSquarings && moved > 1e-13; ++i) {
    Matrix next = squared(steps);
    moved = 0;
    for (size_t k = 0; k < n; ++k) moved += std::abs(next.back()[k] - steps.back()[k]);
    steps = std::move(next);
  }
  SteadyState out;
  out.occupancy = steps.back();
  out.rows = 0;
  for (size_t k = 0; k < n; ++k) {
    out.tokens += out.occupancy[k] * expected_of(trees[k]);
    out.rows += out.occupancy[k] * rows_of(trees[k]);
  }
  return out;
}

DynamicTree search_trees(const AcceptanceTable& acceptance, int rows) {
  const size_t states = acceptance.size();
  const int least = std::max(rows / int(states + 1), 1), most = std::max(rows / 2, least);
  std::vector<int> nodes(states, least);
  nodes.front() = 10;
  DynamicTree best;
  double most_tokens = 0;
  while (true) {
    DynamicTree trees = build_trees(acceptance, nodes, rows);
    const double tokens = steady_state(trees, NothingStood::kIdleStep).tokens;
    if (tokens > most_tokens) {
      most_tokens = tokens;
      best = std::move(trees);
    }
    size_t k = states - 1;  // counts up, the last state first
    while (k > 0 && ++nodes[k] > most) nodes[k--] = least;
    if (k == 0) return best;
  }
}

}  // namespace tutti::decode::speculative
