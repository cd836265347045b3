#include "decode/pearl/pearl_pace.h"

#include <algorithm>

namespace tutti::decode {

namespace {

constexpr int kMeasure = 4;  // plain steps that show what these cost
constexpr int kTrial = 4;    // steps with drafts that show what these bring
constexpr int kFirst = 16;   // the same where nothing is known
constexpr int kFirstPatience = 64, kMostPatience = 1024;
constexpr double kFresh = 0.1;    // least share of a new sample in a mean of one request
constexpr double kShared = 0.02;  // in one of all
constexpr int kPrior = 8;         // steps that what others found counts for
constexpr double kMargin = 1.03;  // a smaller gain is noise of the clock

// `before`: values that `mean` is of.
void follow(double& mean, double value, int before, double least) {
  mean += (value - mean) * std::max(1.0 / (before + 1), least);
}

void follow(double& mean, double value) {
  mean = mean == 0 ? value : mean + (value - mean) * kFresh;
}

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

void PearlPace::decide() {
  if (drafts_) {
    // A request begins with what others found.
    const int prior = times_.drafted > drafted_ ? kPrior : 0;
    const double tokens =
        (tokens_ * drafted_ + times_.tokens * prior) / std::max(drafted_ + prior, 1);
    const bool pay = pays(drafted_ > 2 * kPrior ? tokens_ : tokens);
    if (pay) {
      times_.patience = kFirstPatience;
    } else {
      times_.patience = std::min(2 * times_.patience, kMostPatience);
    }
    drafts_ = pay;
    left_ = kTrial;
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
    follow(times_.drafting, seconds);
    follow(times_.tokens, tokens, times_.drafted++, kShared);
    follow(tokens_, tokens, drafted_++, kFresh);
    times_.idle = 0;
  } else {
    follow(times_.plain, seconds);
    ++times_.idle;
  }
  if (--left_ <= 0) decide();
}

}  // namespace tutti::decode
