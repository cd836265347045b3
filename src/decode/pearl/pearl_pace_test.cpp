// PearlPace on simulated clocks: close to the better of drafting and not drafting, whichever it is.
#include "decode/pearl/pearl_pace.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/draws.h"

namespace tutti::decode {
namespace {

// Seconds of a step without drafts, and of one with some.
struct Cost {
  double plain, drafting;
};

// Seconds per token of `requests` requests, one after the other, of 128 tokens each. A step with
// drafts writes 1 + a draft that stands with probability `alpha`, and so on.
double seconds_per_token(speculative::DraftTimes& times, const Cost& cost, double alpha,
                         int requests, bool adaptive, Draws& draws) {
  double time = 0;
  int64_t tokens = 0;
  for (int r = 0; r < requests; ++r) {
    PearlPace pace(times, adaptive);
    for (int done = 0; done < 128;) {
      const bool drafts = pace.drafts();
      int written = 1;
      while (drafts && written < 8 && draws.chance(alpha)) ++written;
      const double seconds =
          (drafts ? cost.drafting : cost.plain) * (0.95 + 0.1 * double(draws.uniform(0, 1)));
      pace.end(drafts, written, seconds);
      time += seconds;
      done += written;
      tokens += written;
    }
  }
  return time / double(tokens);
}

double seconds_per_token(double cost, double alpha, int requests, bool adaptive, uint64_t seed) {
  speculative::DraftTimes times;
  Draws draws(seed);
  return seconds_per_token(times, {1, cost}, alpha, requests, adaptive, draws);
}

TEST(PearlPace, IsNeverFarFromTheBetterOfTheTwo) {
  for (const double cost : {1.0, 1.3, 1.8, 4.0}) {
    for (const double alpha : {0.0, 0.2, 0.4, 0.6, 0.8}) {
      const double always = seconds_per_token(cost, alpha, 40, false, 1);
      for (uint64_t seed = 2; seed < 5; ++seed) {
        const double paced = seconds_per_token(cost, alpha, 40, true, seed);
        EXPECT_LE(paced, 1.03) << cost << ", " << alpha << ", " << seed;
        EXPECT_LE(paced, std::min(always, 1.0) * 1.12) << cost << ", " << alpha << ", " << seed;
      }
    }
  }
}

// Beside many others a step is slow, and drafts pay; alone it is fast, and they do not.
TEST(PearlPace, NoticesThatPlainStepsHaveBecomeCheaper) {
  for (uint64_t seed = 1; seed < 9; ++seed) {
    speculative::DraftTimes times;
    Draws draws(seed);
    const double busy = seconds_per_token(times, {30, 35}, 0.4, 10, true, draws);
    EXPECT_LE(busy, 30 * 0.85) << seed;
    const double alone = seconds_per_token(times, {5, 12}, 0.4, 40, true, draws);
    EXPECT_LE(alone, 5 * 1.06) << seed;
    const double again = seconds_per_token(times, {30, 35}, 0.4, 40, true, draws);
    EXPECT_LE(again, 30 * 0.85) << seed;
  }
}

TEST(PearlPace, MeasuresTheTargetAloneFirst) {
  speculative::DraftTimes times;
  PearlPace pace(times, true);
  EXPECT_FALSE(pace.drafts());
  for (int i = 0; i < 8 && !pace.drafts(); ++i) pace.end(false, 1, 1.0);
  EXPECT_TRUE(pace.drafts());
  EXPECT_GT(times.plain, 0);
  // What one request has found, the next one knows.
  for (int i = 0; i < 20 && pace.drafts(); ++i) pace.end(true, 1, 2.0);
  EXPECT_FALSE(pace.drafts());
  EXPECT_FALSE(PearlPace(times, true).drafts());
  EXPECT_TRUE(PearlPace(times, false).drafts());
}

}  // namespace
}  // namespace tutti::decode
