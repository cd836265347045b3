#include "decode/speculative/acceptance.h"

#include <algorithm>

namespace tutti::decode::speculative {

namespace {

// A text changes its ways: of what was seen, this share remains at each new draft, so about 50
// drafts count.
constexpr double kRemembered = 0.98;

}  // namespace

Acceptance::Acceptance(std::vector<double> expected, double weight) {
  for (const double e : expected) kinds_.push_back({e * weight, weight});
}

double Acceptance::operator[](int kind) const {
  const Kind& k = kinds_[size_t(kind)];
  return k.stood / k.seen;
}

void Acceptance::record(int kind, bool stood) {
  Kind& k = kinds_[size_t(kind)];
  k.stood = k.stood * kRemembered + (stood ? 1 : 0);
  k.seen = k.seen * kRemembered + 1;
}

void Acceptance::learn(const Tree& tree, const Accepted& accepted) {
  for (size_t i = 0; i < accepted.nodes.size(); ++i) {
    const int stands = i + 1 < accepted.nodes.size() ? accepted.nodes[i + 1] : -1;
    for (const int child : tree.children(accepted.nodes[i]))
      record(tree[child].kind, child == stands);
  }
}

}  // namespace tutti::decode::speculative
