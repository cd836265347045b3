#include "decode/speculative/level_tree.h"

#include <algorithm>
#include <queue>

namespace tutti::decode::speculative {
namespace {

struct Candidate {
  double reach;
  int parent;
  size_t level, rank;
  double acceptance;
};

// The larger reach first; of equal ones the shallower, then the better guess.
struct Later {
  bool operator()(const Candidate& a, const Candidate& b) const {
    if (a.reach != b.reach) return a.reach < b.reach;
    if (a.level != b.level) return a.level > b.level;
    if (a.parent != b.parent) return a.parent > b.parent;
    return a.rank > b.rank;
  }
};

}  // namespace

Tree best_tree(int32_t root, const std::vector<Level>& levels, int nodes) {
  Tree tree(root);
  std::priority_queue<Candidate, std::vector<Candidate>, Later> open;
  const auto offer = [&](int parent, size_t level, size_t rank, double most) {
    if (level >= levels.size() || rank >= levels[level].size()) return;
    const double acceptance = std::clamp(levels[level][rank].acceptance, 0.0, most);
    open.push({tree[parent].reach * acceptance, parent, level, rank, acceptance});
  };
  offer(Tree::kRoot, 0, 0, 1);
  while (tree.drafted() < nodes && !open.empty()) {
    const Candidate c = open.top();
    open.pop();
    const Guess& guess = levels[c.level][c.rank];
    const int node = tree.add(c.parent, guess.token, guess.kind, c.acceptance);
    offer(c.parent, c.level, c.rank + 1, c.acceptance);
    offer(node, c.level + 1, 0, 1);
  }
  return tree;
}

Tree named_tree(int32_t root, const std::vector<Level>& levels,
                const std::vector<std::vector<int>>& paths) {
  Tree tree(root);
  for (const std::vector<int>& path : paths) {
    int node = Tree::kRoot;
    for (size_t d = 0; d < path.size(); ++d) {
      if (d >= levels.size() || size_t(path[d]) >= levels[d].size()) break;
      const Guess& guess = levels[d][size_t(path[d])];
      node = tree.add(node, guess.token, guess.kind, guess.acceptance);
    }
  }
  return tree;
}

}  // namespace tutti::decode::speculative
