#include "decode/speculative/acceptance.h"

#include <algorithm>

namespace tutti::decode::speculative {

Acceptance::Acceptance(std::vector<double> expected, double weight, double remembered)
    : remembered_(remembered) {
  for (const double e : expected) kinds_.push_back({e * weight, weight});
}

Acceptance::Acceptance(Acceptance& all, double weight) : all_(&all) {
  for (const Kind& k : all.kinds_) kinds_.push_back({k.stood / k.seen * weight, weight});
}

double Acceptance::operator[](int kind) const {
  const Kind& k = kinds_[size_t(kind)];
  return k.stood / k.seen;
}

void Acceptance::record(int kind, bool stood) {
  Kind& k = kinds_[size_t(kind)];
  k.stood = k.stood * remembered_ + (stood ? 1 : 0);
  k.seen = k.seen * remembered_ + 1;
  if (all_) all_->record(kind, stood);
}

void Acceptance::learn(const Tree& tree, const Accepted& accepted) {
  for (size_t i = 0; i < accepted.nodes.size(); ++i) {
    const int stands = i + 1 < accepted.nodes.size() ? accepted.nodes[i + 1] : -1;
    for (const int child : tree.children(accepted.nodes[i]))
      record(tree[child].kind, child == stands);
  }
}

}  // namespace tutti::decode::speculative
