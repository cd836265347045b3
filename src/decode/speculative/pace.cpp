#include "decode/speculative/pace.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tutti::decode::speculative {

namespace {

// Ticks between probes: often enough to notice that the text has become predictable, seldom
// enough to cost little.
constexpr int kFirstPatience = 16, kMostPatience = 512;
// Drafts of all together, where others offer some beside a probe: a tile of rows costs what one
// request's do not show.
constexpr int kProbeTogether = 8;
constexpr int kCompared = 16;  // rows whose forwards one without drafts must not cost more than
// What drafts must gain beyond their cost, as a share of all that the engine writes: less is noise
// of the clock, and not worth the rows of those who decode beside them.
constexpr double kMargin = 0.02;
// What drafts add to a forward's time counts as so much more: chances and times are means of few
// samples, the best of many choices is the luckiest one, and what it promises beyond the truth must
// not cost those who decode beside it. The second is beside many.
constexpr double kDoubtAlone = 1.25, kDoubtBeside = 1.5;
constexpr double kFresh = 0.25;  // share of a new sample in the means of the others

}  // namespace

Pace::Pace(const engine::CostTable& cost, const engine::EngineStatistics& statistics, bool adaptive,
           Probes* probes, bool judged, Offers* offers)
    : cost_(cost),
      statistics_(statistics),
      adaptive_(adaptive),
      first_patience_(judged ? kMostPatience : kFirstPatience),
      probes_(adaptive && probes ? *probes : own_),
      offers_(adaptive && offers ? *offers : own_offers_),
      before_(counted()) {
  if (probes_.patience == 0) probes_.patience = first_patience_;
}

// No rows of prompts: those come and go, and are work of their own.
Pace::Counted Pace::counted() const {
  return {statistics_.ticks, statistics_.rows - statistics_.prompt_rows, statistics_.tokens,
          offers_.drafted, offers_.won};
}

void Pace::begin(double keys) {
  keys_ = keys;
  const Counted now = counted();
  // What the prompt's forwards tell: who writes puts down about a row for each token.
  if (alone_so_far_ && now.ticks > before_.ticks) {
    const double tokens = double(now.tokens - before_.tokens) - double(now.won - before_.won) - 1;
    other_tokens_ = std::max(tokens, 0.0) / double(now.ticks - before_.ticks);
    other_rows_ = other_tokens_;
  }
  before_ = now;
  offered_ = -1;
  taken_ = 0;
  probing_ = adaptive_ && (guessed_ || probes_.idle >= probes_.patience);
  if (probing_) {
    probes_.idle = 0;  // this one tries: the others that decode beside it need not
    probes_.begun += !guessed_;
  }
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
  // Not measured(1) alone: where there always are drafts that one was long ago.
  if (most_.empty()) most_.push_back(alone());
  while (int(most_.size()) < rows)
    most_.push_back(std::max(most_.back(), measured(int(most_.size()) + 1)));
  return most_[size_t(rows) - 1];
}

double Pace::doubt() const {
  const double others = other_tokens_ / (1 + other_tokens_);
  return kDoubtAlone + others * (kDoubtBeside - kDoubtAlone);
}

double Pace::doubted(double seconds) const {
  const double alone = this->alone();
  return alone + doubt() * (seconds - alone);
}

Pace::Best Pace::best(const Carried& carried, std::span<const double> reach, double least) const {
  Best best{0, least};
  double tokens = other_tokens_ + 1;
  double rest = std::accumulate(reach.begin(), reach.end(), 0.0);
  for (size_t k = 0; k < reach.size(); ++k) {
    const double seconds = doubted(seconds_of(carried.rows(int(k) + 1)));
    // More rows are not cheaper: what is left cannot make it up.
    if (tokens + rest <= best.rate * seconds) break;
    tokens += reach[k];
    rest -= reach[k];
    if (tokens / seconds > best.rate) best = {int(k) + 1, tokens / seconds};
  }
  return best;
}

bool Pace::carrying_pays(Carried carried, std::span<const double> reach) const {
  if (!adaptive_ || probing_) return true;
  const double alone = this->alone();
  if (alone <= 0) return false;
  return best(carried, reach, (1 + kMargin) * (other_tokens_ + 1) / alone).drafts > 0;
}

double Pace::least_reach(int before, double seconds_to_make) const {
  if (!adaptive_ || (probing_ && before < probes_.drafts())) return 0;
  return price(before, seconds_to_make);
}

double Pace::price(int before, double seconds_to_make) const {
  const double alone = this->alone();
  if (alone <= 0) return 2;
  // Others draft, too: what a draft adds to theirs, but no less than what it has to bear of all.
  const int theirs = int(other_drafts_ + 0.5), drafts = theirs + before + 1;
  const double with = seconds(drafts);
  double cost = std::max(with - seconds(drafts - 1), 0.0);
  if (theirs > 0) cost = std::max(cost, (with - alone) / drafts);
  // Time is worth the tokens that a forward without drafts writes in it.
  return doubt() * (cost + seconds_to_make) * (other_tokens_ + 1) / alone;
}

bool Pace::offer(const Tree& tree) {
  if (!adaptive_ || tree.drafted() == 0) return false;
  std::vector<double> reach;
  for (int i = 1; i < tree.size(); ++i) reach.push_back(tree[i].reach);
  offered_ = offers_.put(statistics_.ticks, reach, probing_);
  offered_at_ = statistics_.ticks;
  return true;
}

int Pace::part() {
  const double alone = this->alone();
  if (alone <= 0) return 0;
  if (!offers_.taken()) {
    const double least = (1 + kMargin) * (other_tokens_ + 1) / alone;
    const int drafts = best(carried_, offers_.reaches(), least).drafts;
    const bool together = offers_.probing() && offers_.requests() > 1;
    offers_.take(together ? std::max(drafts, kProbeTogether) : drafts);
  }
  return offers_.part(offered_, *offers_.taken());
}

Tree Pace::trim(const Tree& tree) {
  // A tick that did not wait has made others' offers of these.
  if ((offered_ < 0 || offered_at_ != statistics_.ticks) && !offer(tree)) return tree;
  const int part = this->part();
  taken_ = std::min(probing_ ? std::max(part, probes_.drafts()) : part, tree.drafted());
  offers_.drafted += uint64_t(taken_);
  return tree.best(taken_);
}

double Pace::rate(double tokens, double rows) const {
  if (seconds(0) <= 0) return 0;
  return (other_tokens_ + tokens) / seconds(std::max(int(rows + 0.5) - 1, 0));
}

void Pace::end(int rows, int tokens, double seconds_to_draft) {
  const int all_rows = carried_.rows(rows - 1);
  const int won = taken_ > 0 ? std::max(tokens - 1, 0) : 0;
  offers_.won += uint64_t(won);
  const Counted now = counted();
  if (const uint64_t ticks = now.ticks - before_.ticks; ticks > 0) {
    const double fresh = std::exchange(alone_so_far_, false) ? 1 : kFresh;
    const auto update = [&](double& mean, double all, int own) {
      mean += (std::max(all - own, 0.0) / double(ticks) - mean) * fresh;
    };
    const double drafted = double(now.drafted - before_.drafted);
    const double tokens_won = double(now.won - before_.won);
    update(other_drafts_, drafted, taken_);
    update(other_rows_, double(now.rows - before_.rows) - drafted, all_rows - taken_);
    update(other_tokens_, double(now.tokens - before_.tokens) - tokens_won, tokens - won);
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
