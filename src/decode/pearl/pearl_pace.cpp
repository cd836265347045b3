#include "decode/pearl/pearl_pace.h"

#include <algorithm>
#include <utility>

namespace tutti::decode {

namespace {

constexpr int kMeasure = 4;  // plain steps that show what these cost
constexpr int kTrial = 4;    // steps with drafts that show what these bring
constexpr int kFirst = 16;   // the same where nothing is known
constexpr int kFirstPatience = 64, kMostPatience = 1024;
// Steps with drafts after which plain ones are measured anew: the load may have changed, and with
// it what they cost. Four in 260 cost little.
constexpr int kMeasured = 256;
constexpr double kFresh = 0.1;    // least share of a new sample in a mean of one request
constexpr int kCounted = 50;      // samples that a mean of all is of, at most
constexpr int kPrior = 8;         // steps that what others found counts for
constexpr double kMargin = 1.03;  // a smaller gain is noise of the clock

// `before`: values that `mean` is of.
void follow(double& mean, double value, int before, double least = kFresh) {
  mean += (value - mean) * std::max(1.0 / (before + 1), least);
}

// One more, as far as anybody counts.
void count(int& steps, int most) { steps = std::min(steps + 1, most); }

}  // namespace

PearlPace::PearlPace(speculative::DraftTimes& times, bool adaptive)
    : times_(times), adaptive_(adaptive) {
  if (!adaptive_) return;
  if (times_.patience == 0) times_.patience = kFirstPatience;
  const bool measured = times_.plain > 0;
  const bool known = times_.drafting > 0;
  drafts_ = measured && (!known || pays(times_.tokens) || times_.idle >= times_.patience);
  left_ = drafts_ ? (known ? kTrial : kFirst) : kMeasure;
}

bool PearlPace::pays(double tokens) const {
  return tokens * times_.plain > kMargin * times_.drafting;
}

// A request begins with what others found.
double PearlPace::expected_tokens() const {
  if (drafted_ > 2 * kPrior) return tokens_;
  const int prior = times_.drafted > drafted_ ? kPrior : 0;
  return (tokens_ * drafted_ + times_.tokens * prior) / std::max(drafted_ + prior, 1);
}

void PearlPace::decide() {
  if (drafts_) {
    const bool pay = pays(expected_tokens());
    times_.patience = pay ? kFirstPatience : std::min(2 * times_.patience, kMostPatience);
    measures_ = pay && times_.unmeasured >= kMeasured;
    if (measures_) times_.plains = 0;  // what they cost before says nothing
    drafts_ = pay && !measures_;
    left_ = measures_ ? kMeasure : kTrial;
  } else if (std::exchange(measures_, false)) {
    drafts_ = pays(expected_tokens());
    left_ = drafts_ ? kTrial : 1;
  } else {
    // What others found counts where this request has tried nothing itself.
    const bool promising = times_.drafting == 0 || (drafted_ == 0 && pays(times_.tokens));
    drafts_ = promising || times_.idle >= times_.patience;
    left_ = !drafts_ ? 1 : times_.drafted == 0 ? kFirst : kTrial;
  }
}

void PearlPace::end(bool drafted, int tokens, double seconds) {
  if (!adaptive_) return;
  if (drafted) {
    if (times_.drafting == 0) times_.drafting = seconds;
    follow(times_.drafting, seconds, kCounted);
    follow(times_.tokens, tokens, times_.drafted, 1.0 / kCounted);
    follow(tokens_, tokens, drafted_++);
    count(times_.drafted, kCounted);
    count(times_.unmeasured, kMeasured);
    times_.idle = 0;
  } else {
    follow(times_.plain, seconds, times_.plains);
    count(times_.plains, kCounted);
    times_.unmeasured = 0;
    count(times_.idle, kMostPatience);
  }
  if (--left_ <= 0) decide();
}

}  // namespace tutti::decode
