#include "decode/speculative/reject.h"

#include <utility>

#include "base/error.h"
#include "engine/rejection.h"

namespace tutti::decode::speculative {

engine::Rows rows_for_rejection(const Tree& tree, const PickRule& rule, int position) {
  return rows_of(tree, rule, position, [](const PickRule&, int) {
    engine::Want want;
    want.logits = true;
    return want;
  });
}

Accepted reject(const Tree& tree, const engine::Answer& answer, const PickRule& rule,
                int position) {
  static const engine::History kNothing;
  engine::Sampler sampler;
  Accepted accepted;
  PickRule now = rule;
  for (int node = Tree::kRoot; node >= 0;) {
    std::vector<float> logits = answer.rows[size_t(node)].logits;
    const engine::Distribution p =
        sampler.distribution(logits, now.sampling(), now.history() ? *now.history() : kNothing);
    const std::vector<int> children = tree.children(node);
    std::vector<int32_t> tokens;
    for (const int child : children) tokens.push_back(tree[child].token);
    const engine::Distribution* drawn = tree.drawn_from(node);
    if (!drawn && tokens.size() > 1) {
      throw Error(
          ErrorKind::kUsage,
          "rejection: siblings that were proposed, not drawn, have no exact test; draft a chain");
    }
    const engine::Distribution q = drawn            ? *drawn
                                   : tokens.empty() ? p
                                                    : engine::one_hot(tokens.front());
    const engine::SiblingsVerdict verdict =
        engine::reject_siblings_in_law(tokens, q, p, now.key(position + tree[node].depth + 1));
    accepted.nodes.push_back(node);
    accepted.picked.emplace_back();
    accepted.picked.back().token = verdict.token;
    node = verdict.child < 0 ? -1 : children[size_t(verdict.child)];
    if (node >= 0) now = now.after(verdict.token);
  }
  return accepted;
}

}  // namespace tutti::decode::speculative
