// The automaton against a search over all earlier places, on texts of few and of many different
// tokens.
#include "decode/speculative/suffix_automaton.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/draws.h"

namespace tutti::decode::speculative {
namespace {

using Ids = std::vector<int32_t>;

// How many of the last tokens stand before text[next], too, at most `limit`.
int common(const Ids& text, int next, int limit) {
  int n = 0;
  while (n < limit && n < next && text[size_t(next - 1 - n)] == text[text.size() - 1 - size_t(n)])
    ++n;
  return n;
}

struct Truth {
  int longest = 0;
  std::set<int32_t> followers;  // of places where at least `least` tokens match
};

Truth search(const Ids& text, int least) {
  Truth truth;
  for (int next = 1; next < int(text.size()); ++next) {
    const int n = common(text, next, int(text.size()));
    truth.longest = std::max(truth.longest, n);
    if (n >= least) truth.followers.insert(text[size_t(next)]);
  }
  return truth;
}

void check(const Ids& text, const SuffixAutomaton& automaton, int least, int most) {
  const Truth truth = search(text, least);
  const auto one = automaton.matches(least, most, 1);
  ASSERT_EQ(one.size(), truth.longest >= least ? 1u : 0u);
  const auto all = automaton.matches(least, most, 1000);
  std::set<int32_t> followers;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto& m = all[i];
    ASSERT_GE(m.length, least);
    ASSERT_LT(m.next, int(text.size()));
    ASSERT_EQ(common(text, m.next, m.length), m.length);
    if (most > 0) ASSERT_LE(m.length, most);
    if (i > 0) ASSERT_LE(m.length, all[i - 1].length);
    followers.insert(text[size_t(m.next)]);
  }
  ASSERT_EQ(followers, truth.followers);
  ASSERT_EQ(followers.size(), all.size());  // each once
  if (one.empty()) return;
  ASSERT_EQ(one[0].next, all[0].next);
  ASSERT_EQ(one[0].length, most > 0 ? std::min(most, truth.longest) : truth.longest);
}

TEST(SuffixAutomaton, FindsWhatASearchFinds) {
  for (const int alphabet : {1, 2, 3, 8, 31}) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      Draws draws(seed * 100 + uint64_t(alphabet));
      Ids text;
      SuffixAutomaton automaton;
      EXPECT_TRUE(automaton.matches(1, 0, 4).empty());
      for (int i = 0; i < 160; ++i) {
        // Copies of earlier pieces make long matches.
        const bool copy = i > 8 && draws.chance(0.6);
        const int32_t token = copy ? text[text.size() - 7] : draws.below(alphabet);
        text.push_back(token);
        automaton.append(token);
        check(text, automaton, 1 + draws.below(4), 0);
        check(text, automaton, 1, 1 + draws.below(5));
        if (HasFatalFailure())
          FAIL() << "alphabet " << alphabet << ", seed " << seed << ", token " << i;
      }
      EXPECT_EQ(automaton.text(), text);
    }
  }
}

TEST(SuffixAutomaton, TheLatestPlaceOfAShortMatchComesFirst) {
  SuffixAutomaton automaton;
  for (const int32_t token : {1, 2, 9, 9, 1, 3, 8, 8, 1, 4, 7, 7, 1}) automaton.append(token);
  const auto found = automaton.matches(1, 0, 10);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].next, 9);  // 1 4
  EXPECT_EQ(found[1].next, 5);  // 1 3
  EXPECT_EQ(found[2].next, 1);  // 1 2
}

}  // namespace
}  // namespace tutti::decode::speculative
