#include "engine/rejection.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace tutti::engine {
namespace {

// Uniform number `index` of the key's stream for `purpose`.
double uniform(DrawKey key, Purpose purpose, uint32_t index) {
  key.purpose = purpose;
  return uniform53(draw_word(key, 2 * index), draw_word(key, 2 * index + 1));
}

// u * q <= p without a division. A token without target mass is refused even if u is 0.
bool accepts(double u, double q, double p) { return p > 0 && u * q <= p; }

void check_drawn(double q, int32_t token) {
  if (q > 0) return;
  throw Error(ErrorKind::kUsage,
              "rejection: draft token " + std::to_string(token) +
                  " has no mass in its draft distribution; give the distribution "
                  "it was drawn from, or one_hot");
}

double total(const Distribution& p) {
  double sum = 0;
  for (const double x : p.probabilities) sum += x;
  return sum;
}

void normalise(Distribution& p) {
  const double sum = total(p);
  if (!(sum > 0)) return;
  for (double& x : p.probabilities) x /= sum;
}

int32_t emit(const Distribution& p, const DrawKey& key) {
  return draw_at(p, uniform(key, Purpose::kResidualSample, 0));
}

}  // namespace

Distribution one_hot(int32_t token) { return {{token}, {1.0}}; }

Distribution residual(const Distribution& p, const Distribution& q) {
  Distribution rest;
  size_t j = 0;
  for (size_t i = 0; i < p.ids.size(); ++i) {
    while (j < q.ids.size() && q.ids[j] < p.ids[i]) ++j;
    const bool shared = j < q.ids.size() && q.ids[j] == p.ids[i];
    const double left = p.probabilities[i] - (shared ? q.probabilities[j] : 0.0);
    if (left > 0) {
      rest.ids.push_back(p.ids[i]);
      rest.probabilities.push_back(left);
    }
  }
  if (rest.ids.empty()) return p;
  normalise(rest);
  return rest;
}

int32_t draw_at(const Distribution& p, double u) {
  const double target = u * total(p);
  double sum = 0;
  int32_t last = -1;
  for (size_t i = 0; i < p.ids.size(); ++i) {
    if (!(p.probabilities[i] > 0)) continue;
    sum += p.probabilities[i];
    last = p.ids[i];
    if (sum > target) break;
  }
  if (last < 0) {
    throw Error(ErrorKind::kUsage,
                "rejection: the target distribution is empty; loosen the sampling constraints");
  }
  return last;
}

ChainVerdict reject_chain_in_law(std::span<const int32_t> chain, std::span<const Distribution> q,
                                 std::span<const Distribution> p, const DrawKey& key) {
  if (q.size() != chain.size() || p.size() != chain.size() + 1) {
    throw Error(ErrorKind::kUsage, "rejection: a chain of " + std::to_string(chain.size()) +
                                       " tokens came with " + std::to_string(q.size()) +
                                       " draft and " + std::to_string(p.size()) +
                                       " target distributions; give n and n + 1");
  }
  DrawKey here = key;
  for (size_t i = 0; i < chain.size(); ++i, ++here.position) {
    const double proposed = q[i].probability(chain[i]);
    check_drawn(proposed, chain[i]);
    const double u = uniform(here, Purpose::kAcceptTest, 0);
    if (!accepts(u, proposed, p[i].probability(chain[i]))) {
      return {int(i), emit(residual(p[i], q[i]), here)};
    }
  }
  return {int(chain.size()), emit(p.back(), here)};
}

SiblingsVerdict reject_siblings_in_law(std::span<const int32_t> siblings, const Distribution& q,
                                       const Distribution& p, const DrawKey& key) {
  Distribution target = p;
  Distribution draft = q;
  for (size_t i = 0; i < siblings.size(); ++i) {
    const int32_t token = siblings[i];
    const double proposed = draft.probability(token);
    check_drawn(proposed, token);
    const double u = uniform(key, Purpose::kAcceptTest, uint32_t(i));
    if (accepts(u, proposed, target.probability(token))) return {int(i), token};
    target = residual(target, draft);
    const auto place = std::lower_bound(draft.ids.begin(), draft.ids.end(), token);
    draft.probabilities[size_t(place - draft.ids.begin())] = 0;
    normalise(draft);
  }
  return {-1, emit(target, key)};
}

}  // namespace tutti::engine
