#include "decode/speculative/pace.h"

#include <algorithm>
#include <utility>

namespace tutti::decode::speculative {

namespace {

// Ticks between probes: often enough to notice that the text has become predictable, seldom
// enough to cost little.
constexpr int kFirstPatience = 16, kMostPatience = 512;
constexpr int kProbe = 3;      // drafts of a probe
constexpr int kCompared = 16;  // rows whose forwards one without drafts must not cost more than
// Tokens that drafts must gain beyond their cost: less is noise of the clock, and not worth the
// rows. It is a share of the request's own token: beside many others one request gains little of
// the whole, but all of them together do not.
constexpr double kMargin = 0.02;
// What drafts add to a forward's time counts as so much more: chances and times are means of few
// samples, the best of many choices is the luckiest one, and what it promises beyond the truth must
// not cost those who decode beside it.
constexpr double kDoubt = 1.25;
constexpr double kFresh = 0.25;  // share of a new sample in the means of the others

}  // namespace

Pace::Pace(const engine::CostTable& cost, const engine::EngineStatistics& statistics, bool adaptive,
           Probes* probes, bool judged)
    : cost_(cost),
      statistics_(statistics),
      adaptive_(adaptive),
      first_patience_(judged ? kMostPatience : kFirstPatience),
      probes_(adaptive && probes ? *probes : own_),
      ticks_(statistics.ticks),
      tokens_(statistics.tokens) {
  if (probes_.patience == 0) probes_.patience = first_patience_;
}

void Pace::begin(double keys) {
  keys_ = keys;
  // What the prompt's forwards tell: who writes puts down about a row for each token.
  if (alone_so_far_ && statistics_.ticks > ticks_) {
    other_tokens_ = std::max(double(statistics_.tokens - tokens_) - 1, 0.0) /
                    double(statistics_.ticks - ticks_);
    other_rows_ = other_tokens_;
  }
  ticks_ = statistics_.ticks;
  rows_ = decoding_rows();
  tokens_ = statistics_.tokens;
  probing_ = adaptive_ && (guessed_ || probes_.idle >= probes_.patience);
  if (probing_) probes_.idle = 0;  // this one tries: the others that decode beside it need not
  carried_ = {};
  forget();
}

// A forward of more rows is never cheaper. A measurement that says so is noise of the clock or of
// another moment, and the luckiest of many would be taken for a bargain: so a forward without
// drafts costs the least, and one with some the most that was measured up to its rows.
double Pace::alone() const {
  if (alone_ >= 0) return alone_;
  alone_ = measured(1);  // 0: first it must be known what a forward without costs
  for (int r = 2; alone_ > 0 && r <= kCompared; ++r) {
    if (const double s = measured(r); s > 0) alone_ = std::min(alone_, s);
  }
  return alone_;
}

double Pace::seconds_of(int rows) const {
  while (int(most_.size()) < rows) {
    const double before = most_.empty() ? 0.0 : most_.back();
    most_.push_back(std::max(before, measured(int(most_.size()) + 1)));
  }
  return most_[size_t(rows) - 1];
}

double Pace::doubted(double seconds) const {
  const double alone = this->alone();
  return alone + kDoubt * (seconds - alone);
}

Pace::Best Pace::best(const Carried& carried, std::span<const double> reach, double least) const {
  Best best{0, least};
  double tokens = other_tokens_ + 1;
  for (size_t k = 0; k < reach.size(); ++k) {
    tokens += reach[k];
    const double rate = tokens / doubted(seconds_of(carried.rows(int(k) + 1)));
    if (rate > best.rate) best = {int(k) + 1, rate};
  }
  return best;
}

bool Pace::carrying_pays(Carried carried, std::span<const double> reach) const {
  if (!adaptive_ || probing_) return true;
  const double alone = this->alone();
  if (alone <= 0) return false;
  return best(carried, reach, (other_tokens_ + 1 + kMargin) / alone).drafts > 0;
}

double Pace::least_reach(int before, double seconds_to_make) const {
  if (!adaptive_ || (probing_ && before < kProbe)) return 0;
  const double alone = this->alone(), now = seconds(before), with = seconds(before + 1);
  if (alone <= 0) return 2;
  // Time is worth the tokens that a forward without drafts writes in it.
  return kDoubt * (std::max(with - now, 0.0) + seconds_to_make) * (other_tokens_ + 1) / alone;
}

Tree Pace::trim(const Tree& tree) const {
  if (!adaptive_ || tree.drafted() == 0) return tree;
  std::vector<double> reach;
  for (int i = 1; i < tree.size(); ++i) reach.push_back(tree[i].reach);
  std::sort(reach.rbegin(), reach.rend());
  const double alone = this->alone();
  if (alone <= 0) return tree.best(probing_ ? kProbe : 0);
  const int best = this->best(carried_, reach, (other_tokens_ + 1 + kMargin) / alone).drafts;
  return tree.best(probing_ ? std::max(best, kProbe) : best);
}

double Pace::rate(double tokens, double rows) const {
  if (seconds(0) <= 0) return 0;
  return (other_tokens_ + tokens) / seconds(std::max(int(rows + 0.5) - 1, 0));
}

void Pace::end(int rows, int tokens, double seconds_to_draft) {
  const int all_rows = carried_.rows(rows - 1);
  const uint64_t ticks = statistics_.ticks - ticks_;
  if (ticks > 0) {
    const auto others = [&](uint64_t all, int own) {
      return std::max(double(all) - own, 0.0) / double(ticks);
    };
    const double fresh = std::exchange(alone_so_far_, false) ? 1 : kFresh;
    other_rows_ += (others(decoding_rows() - rows_, all_rows) - other_rows_) * fresh;
    other_tokens_ += (others(statistics_.tokens - tokens_, tokens) - other_tokens_) * fresh;
  }
  forget();
  if (all_rows == 1) {
    if (probing_) {
      probes_.idle = probes_.patience;  // there was nothing to try
    } else if (std::exchange(probes_.tick, statistics_.ticks) != statistics_.ticks) {
      ++probes_.idle;
    }
    return;
  }
  // What is carried the first time guesses for the next forward, which is the one that shows.
  if (probing_ && rows == 1 && !std::exchange(guessed_, true)) return;
  guessed_ = false;
  if (probing_) {
    const bool paid = (other_tokens_ + tokens) * alone() >
                      (other_tokens_ + 1) * (seconds(rows - 1) + seconds_to_draft);
    probes_.patience = paid ? first_patience_ : std::min(2 * probes_.patience, kMostPatience);
  }
  probes_.idle = 0;
}

}  // namespace tutti::decode::speculative
