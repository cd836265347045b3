#include "decode/ppd/tree_choice.h"

#include <algorithm>

namespace tutti::decode::ppd {

namespace {

// Forwards between trials where trees do not pay, and of a trial: one to look ahead, others to see.
constexpr int kFirstPatience = 32, kMostPatience = 256, kTrial = 8;
constexpr double kMargin = 1.02;      // a smaller gain is noise of the clock
constexpr double kRemembered = 0.98;  // of what was seen, per forward
constexpr double kPrior = 8;          // tokens that went as expected, before any were seen
// Of what is expected, what a text may seem to give at most: trees that go far beyond were lucky.
constexpr double kMostShare = 1.5;

int widest(const speculative::DynamicTree& trees) {
  int rows = 0;
  for (const auto& tree : trees) rows = std::max(rows, speculative::rows_of(tree));
  return rows;
}

}  // namespace

TreeChoice::TreeChoice(const std::vector<speculative::DynamicTree>& trees, int rows)
    : adaptive_(rows == 0), expected_(kPrior), stood_(kPrior), patience_(kFirstPatience) {
  double most = 1;
  for (const auto& t : trees) {
    const speculative::SteadyState steady = speculative::steady_state(t);
    options_.push_back({&t, steady.tokens, steady.rows});
    if (adaptive_ || widest(t) > rows || steady.tokens <= most) continue;
    most = steady.tokens;
    fixed_ = &t;
  }
}

const TreeChoice::Option* TreeChoice::best(const speculative::Pace& pace) const {
  const double share = std::min(stood_ / expected_, kMostShare);
  const Option* best = nullptr;
  double most = pace.rate(1, 1) * kMargin;
  if (most <= 0) return nullptr;  // first it must be known what plain decoding costs
  for (const Option& o : options_) {
    const double rate = pace.rate(1 + (o.tokens - 1) * share, o.rows);
    if (rate <= most) continue;
    most = rate;
    best = &o;
  }
  return best;
}

const speculative::DynamicTree* TreeChoice::choose(const speculative::Pace& pace) {
  if (!adaptive_) return fixed_;
  if (options_.empty()) return nullptr;
  if (const Option* o = best(pace)) {
    if (idle_ == 0 && trial_ == 0) patience_ = kFirstPatience;
    idle_ = 0;
    return o->trees;
  }
  if (trial_ == 0 && ++idle_ > patience_) {
    trial_ = kTrial;
    idle_ = 0;
    patience_ = std::min(2 * patience_, kMostPatience);
  }
  if (trial_ == 0) return nullptr;
  --trial_;
  return options_.front().trees;
}

void TreeChoice::learn(double expected, int stood) {
  expected_ = expected_ * kRemembered + expected;
  stood_ = stood_ * kRemembered + stood;
}

}  // namespace tutti::decode::ppd
