#include "decode/speculative/tree.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace tutti::decode::speculative {

int Tree::add(int parent, int32_t token, int kind, double acceptance) {
  if (const int there = child(parent, token); there >= 0) return there;
  Node node;
  node.token = token;
  node.parent = parent;
  node.depth = nodes_[size_t(parent)].depth + 1;
  node.kind = kind;
  node.reach = nodes_[size_t(parent)].reach * std::clamp(acceptance, 0.0, 1.0);
  nodes_.push_back(node);
  return size() - 1;
}

int Tree::child(int node, int32_t token) const {
  for (int i = node + 1; i < size(); ++i) {
    if (nodes_[size_t(i)].parent == node && nodes_[size_t(i)].token == token) return i;
  }
  return -1;
}

std::vector<int> Tree::children(int node) const {
  std::vector<int> found;
  for (int i = node + 1; i < size(); ++i) {
    if (nodes_[size_t(i)].parent == node) found.push_back(i);
  }
  return found;
}

int Tree::depth() const {
  int deepest = 0;
  for (const Node& node : nodes_) deepest = std::max(deepest, node.depth);
  return deepest;
}

bool Tree::chain() const {
  for (int i = 1; i < size(); ++i) {
    if (nodes_[size_t(i)].parent != i - 1) return false;
  }
  return true;
}

Tree Tree::best(int count) const {
  if (count >= drafted()) return *this;
  std::vector<int> order;
  for (int i = 1; i < size(); ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return nodes_[size_t(a)].reach > nodes_[size_t(b)].reach; });
  order.resize(size_t(std::max(count, 0)));
  std::sort(order.begin(), order.end());
  Tree tree;
  std::vector<int> now(nodes_.size(), -1);
  tree.nodes_[0] = nodes_[0];
  now[0] = 0;
  for (const int i : order) {
    Node node = nodes_[size_t(i)];
    assert(now[size_t(node.parent)] >= 0);
    node.parent = now[size_t(node.parent)];
    now[size_t(i)] = tree.size();
    tree.nodes_.push_back(node);
  }
  for (size_t i = 0; i < drawn_from_.size(); ++i) {
    if (drawn_from_[i] && now[i] >= 0) tree.set_drawn_from(now[i], *drawn_from_[i]);
  }
  return tree;
}

void Tree::set_drawn_from(int node, engine::Distribution q) {
  drawn_from_.resize(nodes_.size());
  drawn_from_[size_t(node)] = std::make_shared<const engine::Distribution>(std::move(q));
}

const engine::Distribution* Tree::drawn_from(int node) const {
  return size_t(node) < drawn_from_.size() ? drawn_from_[size_t(node)].get() : nullptr;
}

engine::Rows rows_of(const Tree& tree, const PickRule& rule, int position,
                     const std::function<engine::Want(const PickRule&, int)>& want) {
  engine::Rows rows;
  std::vector<PickRule> rules;
  std::vector<std::vector<int>> paths;  // of each node: its ancestors from the root on, and itself
  for (int i = 0; i < tree.size(); ++i) {
    const Tree::Node& node = tree[i];
    rules.push_back(i == 0 ? rule : rules[size_t(node.parent)].after(node.token));
    paths.push_back(i == 0 ? std::vector<int>{} : paths[size_t(node.parent)]);
    paths.back().push_back(i);
    engine::Row row(node.token, position + node.depth);
    if (int(paths.back().size()) < i + 1) {  // else it sees every row before it
      engine::View view{engine::Segment::slots()};
      for (const int seen : paths.back()) {
        if (view.size() > 1 && view.back().first + view.back().count == seen) {
          ++view.back().count;
        } else {
          view.push_back(engine::Segment::fresh(seen, 1));
        }
      }
      row.view = rows.add_view(std::move(view));
    }
    row.want = want(rules.back(), position + node.depth + 1);
    rows.rows.push_back(std::move(row));
  }
  return rows;
}

engine::Rows rows_of(const Tree& tree, const PickRule& rule, int position) {
  return rows_of(tree, rule, position, [](const PickRule& r, int p) { return r.want(p); });
}

Accepted match(const Tree& tree, const engine::Answer& answer) {
  Accepted accepted;
  for (int node = Tree::kRoot; node >= 0;) {
    accepted.nodes.push_back(node);
    accepted.picked.push_back(answer.rows[size_t(node)].picked);
    node = tree.child(node, accepted.picked.back().token);
  }
  return accepted;
}

}  // namespace tutti::decode::speculative
