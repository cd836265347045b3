#include "decode/ppd/step.h"

#include <map>
#include <numeric>
#include <utility>

namespace tutti::decode::ppd {

using speculative::Tree;

int rows_of(const StepTree& step) {
  return std::accumulate(step.prompts.begin(), step.prompts.end(), step.tree.size());
}

int planned(const Tree& tree, const speculative::Accepted& accepted) {
  return int(std::count_if(accepted.nodes.begin(), accepted.nodes.end(), [&](int node) {
    return node != Tree::kRoot && tree[node].kind == kPlanned;
  }));
}

StepTree place(const speculative::StateTree& plan, int32_t root, const Candidates& candidates) {
  StepTree step{Tree(root), {plan.front().prompts}};
  std::map<std::vector<int>, int> placed{{{}, Tree::kRoot}};
  std::map<std::vector<int>, double> reach{{{}, 1.0}};
  for (size_t i = 1; i < plan.size(); ++i) {
    const speculative::PlannedNode& node = plan[i];
    std::vector<int> parent = node.path;
    const size_t depth = parent.size(), rank = size_t(parent.back());
    parent.pop_back();
    if (!placed.contains(parent) || depth > candidates.size() ||
        rank >= candidates[depth - 1].size())
      continue;
    const double before = reach.at(parent);
    placed[node.path] = step.tree.add(placed.at(parent), candidates[depth - 1][rank].token,
                                      kPlanned, before > 0 ? node.reach / before : 0);
    reach[node.path] = node.reach;
    step.prompts.push_back(node.prompts);
  }
  return step;
}

engine::Rows rows_of(const StepTree& step, const PromptTokens& prompts, const PickRule& rule,
                     int position, const std::function<engine::Want(const PickRule&, int)>& want) {
  const Tree& tree = step.tree;
  engine::Rows rows = speculative::rows_of(tree, rule, position);
  std::vector<PickRule> rules;
  std::vector<engine::View> seen;  // by what stands behind each node
  for (int i = 0; i < tree.size(); ++i) {
    const Tree::Node& node = tree[i];
    rules.push_back(i == 0 ? rule : rules[size_t(node.parent)].after(node.token));
    seen.push_back(i == 0 ? engine::View{engine::Segment::slots()} : seen[size_t(node.parent)]);
    seen.back().push_back(engine::Segment::fresh(i, 1));
  }
  for (int i = 0; i < tree.size(); ++i) {
    const int first = int(rows.rows.size()), count = step.prompts[size_t(i)];
    if (count == 0) continue;
    engine::View view = seen[size_t(i)];
    view.push_back(engine::Segment::fresh(first, count, true));
    const engine::ViewId id = rows.add_view(std::move(view));
    for (int j = 1; j <= count; ++j) {
      engine::Row row;
      row.in.kind = engine::RowInput::kVector;
      row.in.vector = prompts.vectors[size_t(j - 1)];
      const int at = position + tree[i].depth + j;
      row.position = at;
      row.view = id;
      row.write = engine::Write::none();
      row.want = want(rules[size_t(i)], at + 1);
      rows.rows.push_back(std::move(row));
    }
  }
  return rows;
}

int first_prompt(const StepTree& step, int node) {
  return std::accumulate(step.prompts.begin(), step.prompts.begin() + node, step.tree.size());
}

}  // namespace tutti::decode::ppd
