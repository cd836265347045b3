#include "decode/pick_rule.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "base/error.h"

namespace tutti::decode {

PickRule::PickRule(engine::Sampling sampling, DrawKey key, std::shared_ptr<engine::History> history,
                   std::shared_ptr<const Constraint> constraint)
    : sampling_(std::move(sampling)),
      key_(key),
      history_(std::move(history)),
      constraint_(std::move(constraint)),
      always_allowed_(sampling_.allowed) {
  constrain();
}

void PickRule::constrain() {
  if (!constraint_) return;
  auto set = constraint_->allowed();
  if (always_allowed_) {
    if (set->size() != always_allowed_->size()) {
      throw Error(ErrorKind::kUsage, "constraint: its set has " + std::to_string(set->size()) +
                                         " words, sampling.allowed has " +
                                         std::to_string(always_allowed_->size()) +
                                         "; both cover the vocabulary");
    }
    auto both = std::make_shared<std::vector<uint64_t>>(*set);
    for (size_t i = 0; i < both->size(); ++i) (*both)[i] &= (*always_allowed_)[i];
    set = std::move(both);
  }
  sampling_.allowed = std::move(set);
}

DrawKey PickRule::key(int position) const {
  DrawKey key = key_;
  key.position = uint32_t(position);
  return key;
}

engine::Want PickRule::want(int position) const {
  engine::Want want;
  want.pick = true;
  want.sampling = sampling_;
  want.history = history_;
  want.key = key(position);
  return want;
}

bool PickRule::leaves_some(int vocabulary, const std::vector<uint64_t>* among) const {
  if (!sampling_.allowed && !among) return true;
  const auto forbidden = [this](int32_t id) {
    if (std::ranges::find(sampling_.suppressed, id) != sampling_.suppressed.end()) return true;
    return std::ranges::any_of(sampling_.logit_bias,
                               [id](const auto& b) { return b.first == id && b.second < -1e30f; });
  };
  const auto in = [](const std::vector<uint64_t>* set, int32_t id) {
    return !set || (size_t(id / 64) < set->size() && ((*set)[size_t(id / 64)] >> (id % 64) & 1));
  };
  for (int32_t id = 0; id < vocabulary; ++id) {
    if (in(sampling_.allowed.get(), id) && in(among, id) && !forbidden(id)) return true;
  }
  return false;
}

PickRule PickRule::detached() const {
  PickRule copy = *this;
  if (history_) copy.history_ = std::make_shared<engine::History>(*history_);
  return copy;
}

PickRule PickRule::after(int32_t token) const {
  PickRule next = detached();
  next.advance(token);
  return next;
}

void PickRule::advance(int32_t token) {
  if (history_) history_->append_output(token);
  if (!constraint_) return;
  constraint_ = constraint_->after(token);
  assert(constraint_);
  constrain();
}

}  // namespace tutti::decode
