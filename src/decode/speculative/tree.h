// Drafted tokens as a tree; a chain is a tree. One forward tells what the model picks after every
// node, and the longest path of nodes that it picked itself stands. Sources: Miao et al. 2024
// (SpecInfer) for the tree as one query; sample-then-match, sheet 00 section 6, for the walk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "decode/pick_rule.h"
#include "engine/rows.h"
#include "engine/sampling.h"

namespace tutti::decode::speculative {

class Tree {
 public:
  static constexpr int kRoot = 0;
  struct Node {
    int32_t token = -1;
    int parent = -1;
    int depth = 0;     // of the root: 0
    int kind = 0;      // what its drafter expected of it: a kind of Acceptance
    double reach = 1;  // the expected probability that a forward accepts it, with all before it
  };

  // The root is the last token that stands; it is not in the Context yet.
  explicit Tree(int32_t root = -1) {
    nodes_.emplace_back();
    nodes_.back().token = root;
  }

  // A child of `parent`, which is accepted with probability `acceptance` where its parent is. The
  // one that is there already stays as it is. Returns its number, greater than its parent's.
  int add(int parent, int32_t token, int kind = 0, double acceptance = 1);
  // -1: none.
  int child(int node, int32_t token) const;
  std::vector<int> children(int node) const;

  int size() const { return int(nodes_.size()); }
  int drafted() const { return size() - 1; }
  int depth() const;
  const Node& operator[](int node) const { return nodes_[size_t(node)]; }
  // Each node is the only child of the one before it.
  bool chain() const;

  // Of the drafted nodes the `count` of largest reach, with the lower number on ties: a tree again,
  // as no child has more reach than its parent.
  Tree best(int count) const;
  // Without what need not be computed: deeper than `depth`, against the rule's constraint, an end
  // token (it is enough that the node before picks it; one that was drawn stays, because its test
  // counts) and what comes after. What the constraint leaves without any next token goes, too: it
  // would fail the whole forward. `rule` is that of the token after the root; the vocabulary has
  // `vocabulary` tokens.
  template <class IsEnd>
  Tree pruned(int depth, const PickRule& rule, int vocabulary, const IsEnd& is_end) const;

  // The distribution that the children of `node` were drawn from without replacement, in their
  // order; null: they were proposed, not drawn. For verification by rejection.
  void set_drawn_from(int node, engine::Distribution q);
  const engine::Distribution* drawn_from(int node) const;

 private:
  std::vector<Node> nodes_;
  std::vector<std::shared_ptr<const engine::Distribution>> drawn_from_;
};

// One row per node, in their order, appended; each sees the Context, its ancestors and itself. The
// root stands at `position`. `want` is called with the rule after each node, and the position that
// follows it.
engine::Rows rows_of(const Tree& tree, const PickRule& rule, int position,
                     const std::function<engine::Want(const PickRule&, int position)>& want);
// The same, picking.
engine::Rows rows_of(const Tree& tree, const PickRule& rule, int position);

// What stands: nodes from the root on, each a child of the one before, and what was picked after
// each of them. The last pick is the next root.
struct Accepted {
  Accepted() = default;
  std::vector<int> nodes;
  std::vector<engine::Picked> picked;
  int drafts() const { return int(nodes.size()) - 1; }
};

// Follows the picks that `answer` has for rows_of(tree).
Accepted match(const Tree& tree, const engine::Answer& answer);

template <class IsEnd>
Tree Tree::pruned(int depth, const PickRule& rule, int vocabulary, const IsEnd& is_end) const {
  std::vector<int> now(nodes_.size(), -1);
  std::vector<PickRule> rules(nodes_.size());
  Tree tree(nodes_[0].token);
  now[0] = 0;
  rules[0] = rule;
  const bool constrained = rule.constrained();
  for (size_t i = 1; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    const size_t parent = size_t(node.parent);
    if (now[parent] < 0 || node.depth > depth || (parent > 0 && is_end(nodes_[parent].token)))
      continue;
    if (is_end(node.token) && !drawn_from(int(parent))) continue;
    if (constrained && !rules[parent].allows(node.token)) continue;
    if (constrained) {
      rules[i] = rules[parent].after(node.token);
      if (!is_end(node.token) && !rules[i].leaves_some(vocabulary)) continue;
    }
    const double before = nodes_[parent].reach;
    now[i] = tree.add(now[parent], node.token, node.kind, before > 0 ? node.reach / before : 0);
  }
  for (size_t i = 0; i < drawn_from_.size(); ++i) {
    if (drawn_from_[i] && now[i] >= 0) tree.set_drawn_from(now[i], *drawn_from_[i]);
  }
  return tree;
}

}  // namespace tutti::decode::speculative
