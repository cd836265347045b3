#include "decode/speculative/tree_policy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace tutti::decode::speculative {

namespace {

// Of later steps' worth, per step: so near to 1 that the few steps until the chain has forgotten
// its state count fully, and below it so that every policy has a worth.
constexpr double kDiscount = 0.9999;

// What prompts are worth beside each other: total[p] is the most that p prompts together give,
// chosen[i][p] how many of them node i takes.
struct Assignment {
  std::vector<double> total;
  std::vector<std::vector<int>> chosen;
};

// `worth`: of the state that n prompts lead to. Prefixes of the tree give prefixes of the sums, so
// one table serves them all; but a node's `last` depends on which of its children are there.
Assignment assign(const StateTree& tree, const std::vector<double>& worth, int most) {
  Assignment a;
  a.total.assign(1, 0.0);
  for (const PlannedNode& node : tree) {
    const size_t reachable = std::min(a.total.size() + worth.size() - 2, size_t(most)) + 1;
    std::vector<double> next(reachable, -INFINITY);
    std::vector<int> chosen(reachable, 0);
    for (size_t p = 0; p < a.total.size(); ++p) {
      for (size_t n = 0; n < worth.size() && p + n < reachable; ++n) {
        const double total = a.total[p] + node.last * worth[n];
        if (total > next[p + n]) {
          next[p + n] = total;
          chosen[p + n] = int(n);
        }
      }
    }
    a.total = std::move(next);
    a.chosen.push_back(std::move(chosen));
  }
  return a;
}

class Policy {
 public:
  Policy(const AcceptanceTable& acceptance, const RowSeconds& seconds, const TreeLimits& limits)
      : limits_(limits) {
    for (int r = 0; r <= limits.rows; ++r) seconds_.push_back(seconds(std::max(r, 1)));
    for (size_t k = 0; k <= acceptance.size(); ++k) {
      candidates_.push_back(candidate_tree(acceptance, int(k), limits.rows - 1, limits.width));
    }
  }

  // The best tree of each state when n prompts are worth worth[n] and time costs `rate` tokens a
  // second.
  DynamicTree improved(const std::vector<double>& worth, double rate) const {
    DynamicTree trees;
    for (const StateTree& all : candidates_) trees.push_back(best_of(all, worth, rate));
    return trees;
  }

  // What the steps from each state on give, less the time they take at `rate`.
  std::vector<double> worth(const DynamicTree& trees, double rate) const {
    std::vector<double> now(trees.size(), 0.0);
    for (double moved = 1; moved > 1e-10;) {
      std::vector<double> next;
      for (const StateTree& tree : trees) {
        double sum = 1 + expected_of(tree) - rate * seconds_[size_t(rows_of(tree))];
        for (const PlannedNode& node : tree)
          sum += kDiscount * node.last * now[size_t(node.prompts)];
        next.push_back(sum);
      }
      // Only differences matter: the common part grows for long, these settle at once.
      const double common = next.back();
      moved = 0;
      for (size_t k = 0; k < next.size(); ++k) {
        next[k] -= common;
        moved += std::abs(next[k] - now[k]);
        now[k] = (now[k] + next[k]) / 2;  // also where the chain alternates
      }
    }
    return now;
  }

 private:
  StateTree best_of(const StateTree& all, const std::vector<double>& worth, double rate) const {
    StateTree best;
    double most = -INFINITY;
    for (size_t nodes = 1; nodes <= all.size(); ++nodes) {
      StateTree tree(all.begin(), all.begin() + std::ptrdiff_t(nodes));
      set_last(tree);
      const Assignment a = assign(tree, worth, limits_.rows - int(nodes));
      for (size_t p = 0; p < a.total.size(); ++p) {
        const double value = expected_of(tree) + a.total[p] - rate * seconds_[nodes + p];
        if (value <= most + 1e-12) continue;
        most = value;
        best = tree;
        size_t left = p;
        for (size_t i = nodes; i-- > 0;) {
          best[i].prompts = a.chosen[i][left];
          left -= size_t(best[i].prompts);
        }
      }
    }
    return best;
  }

  TreeLimits limits_;
  std::vector<double> seconds_;
  DynamicTree candidates_;  // of each state, all that fit
};

}  // namespace

double tokens_per_second(const DynamicTree& trees, const RowSeconds& seconds) {
  const SteadyState steady = steady_state(trees);
  double each = 0;
  for (size_t k = 0; k < trees.size(); ++k)
    each += steady.occupancy[k] * seconds(rows_of(trees[k]));
  return steady.tokens / each;
}

DynamicTree best_trees(const AcceptanceTable& acceptance, const RowSeconds& seconds,
                       const TreeLimits& limits) {
  const Policy policy(acceptance, seconds, limits);
  DynamicTree best(acceptance.size() + 1, StateTree(1));  // plain decoding
  double most = tokens_per_second(best, seconds), rate = most;
  std::vector<double> worth;  // to begin with: the more prompts, the more candidates may stand
  for (size_t n = 0; n <= acceptance.size(); ++n)
    worth.push_back(expected_of(candidate_tree(acceptance, int(n), limits.rows / 2, limits.width)));
  // The first guess may lead astray, so a few rounds pass before one that gains nothing ends it.
  constexpr int kLeastRounds = 4, kMostRounds = 50;
  for (int round = 0; round < kMostRounds; ++round) {
    DynamicTree next = policy.improved(worth, rate);
    rate = tokens_per_second(next, seconds);
    worth = policy.worth(next, rate);
    if (rate > most * (1 + 1e-9)) {
      most = rate;
      best = std::move(next);
    } else if (round >= kLeastRounds) {
      break;
    }
  }
  return best;
}

}  // namespace tutti::decode::speculative
