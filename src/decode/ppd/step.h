// One step of parallel prompt decoding as values: the tree that a plan and the candidates at hand
// give, and its rows.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "decode/ppd/prompt_tokens.h"
#include "decode/speculative/tree.h"
#include "decode/speculative/tree_builder.h"

namespace tutti::decode::ppd {

// What the prompt rows behind the last node that stood said: [j] of the token j + 2 behind that
// node, which is j + 1 behind the token that it picked. Best first.
using Candidates = std::vector<std::vector<engine::RankedToken>>;

// Kinds of a step's nodes: candidates of the plan, and what another drafter put beside them.
inline constexpr int kPlanned = 0, kBeside = 1;

struct StepTree {
  speculative::Tree tree;
  std::vector<int> prompts;  // behind each of its nodes
};

// Of one forward: nodes and prompts.
int rows_of(const StepTree& step);
// How many of the plan's candidates stood.
int planned(const speculative::Tree& tree, const speculative::Accepted& accepted);

// The plan's nodes as tokens: rank a at depth d is candidates[d - 1][a]. Nodes without a candidate
// are left out, with all behind them.
StepTree place(const speculative::StateTree& plan, int32_t root, const Candidates& candidates);

// The same without what need not be computed (Tree::pruned); behind a node at depth d at most
// `room` - d prompts.
template <class IsEnd>
StepTree pruned(const StepTree& step, int depth, int room, const PickRule& rule, int vocabulary,
                const IsEnd& is_end) {
  StepTree out{step.tree.pruned(depth, rule, vocabulary, is_end), {}};
  out.prompts.assign(size_t(out.tree.size()), 0);
  std::vector<int> now(size_t(step.tree.size()), -1);
  for (int i = 0; i < step.tree.size(); ++i) {
    const speculative::Tree::Node& node = step.tree[i];
    const int parent = i == 0 ? -1 : now[size_t(node.parent)];
    now[size_t(i)] = i == 0 ? 0 : parent < 0 ? -1 : out.tree.child(parent, node.token);
    if (now[size_t(i)] < 0) continue;
    out.prompts[size_t(now[size_t(i)])] =
        std::clamp(step.prompts[size_t(i)], 0, std::max(room - node.depth, 0));
  }
  return out;
}

// The rows of the tree as rows_of(tree) has them, then of each node in turn its prompts: each sees
// what the node sees, the node, and the prompts before it; nobody sees them, and nothing is kept of
// them. `want` is called with the rule after the node and the position of the token that the row
// predicts.
engine::Rows rows_of(const StepTree& step, const PromptTokens& prompts, const PickRule& rule,
                     int position,
                     const std::function<engine::Want(const PickRule&, int position)>& want);

// Of those rows, the first prompt of a node.
int first_prompt(const StepTree& step, int node);

}  // namespace tutti::decode::ppd
