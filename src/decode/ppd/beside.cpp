#include "decode/ppd/beside.h"

#include <utility>
#include <vector>

namespace tutti::decode::ppd {

using speculative::Accepted;
using speculative::Tree;

namespace {

// After so many forwards that left a draft out its first tokens are tried whatever they seem to be
// worth: what one does not try, one does not learn about. Three rows in 33 forwards cost little.
constexpr int kPatience = 32, kTrial = 3;

double acceptance_of(const Tree& tree, int node) {
  const double before = tree[tree[node].parent].reach;
  return before > 0 ? tree[node].reach / before : 0;
}

// The part of `drafted` whose paths are paths of `tree`, too.
Tree part_within(const Tree& drafted, const Tree& tree) {
  Tree part(drafted[Tree::kRoot].token);
  std::vector<int> there(size_t(drafted.size()), -1), now(there);
  there[0] = now[0] = Tree::kRoot;
  for (int i = 1; i < drafted.size(); ++i) {
    const size_t parent = size_t(drafted[i].parent), at = size_t(i);
    if (there[parent] < 0) continue;
    there[at] = tree.child(there[parent], drafted[i].token);
    if (there[at] < 0) continue;
    now[at] = part.add(now[parent], drafted[i].token, drafted[i].kind, acceptance_of(drafted, i));
  }
  return part;
}

// The part of what stands that is in `tree`.
Accepted along(const Tree& tree, const Accepted& accepted) {
  Accepted part;
  int node = Tree::kRoot;
  for (size_t i = 0; i < accepted.picked.size() && node >= 0; ++i) {
    part.nodes.push_back(node);
    part.picked.push_back(accepted.picked[i]);
    node = tree.child(node, accepted.picked[i].token);
  }
  return part;
}

}  // namespace

Beside::Beside(std::unique_ptr<speculative::Drafter> drafter) : drafter_(std::move(drafter)) {}

Task<void> Beside::add(engine::Context& context, const speculative::Pace& pace, int depth,
                       StepTree& step) {
  drafted_ = co_await drafter_->draft(context, pace, depth);
  int trial = left_out_ >= kPatience ? kTrial : 0;
  std::vector<int> now(size_t(drafted_.size()), -1);
  now[0] = Tree::kRoot;
  int drafts = rows_of(step) - 1;
  for (int i = 1; i < drafted_.size(); ++i) {
    const Tree::Node& node = drafted_[i];
    const int parent = now[size_t(node.parent)];
    if (parent < 0) continue;
    if (node.reach < pace.least_reach(drafts) && trial-- <= 0) continue;
    now[size_t(i)] = step.tree.add(parent, node.token, kBeside, acceptance_of(drafted_, i));
    if (size_t(step.tree.size()) > step.prompts.size()) {
      step.prompts.push_back(0);
      ++drafts;
    }
  }
}

void Beside::learn(const Tree& tree, const Accepted& accepted) {
  const Tree tried = part_within(drafted_, tree);
  if (tried.drafted() > 0) {
    left_out_ = 0;
  } else if (drafted_.drafted() > 0) {
    ++left_out_;
  }
  drafter_->learn(tried, along(tried, accepted));
  drafted_ = Tree();
}

}  // namespace tutti::decode::ppd
