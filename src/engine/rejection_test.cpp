#include "engine/rejection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "base/error.h"
#include "engine/goodness_of_fit.h"

namespace tutti::engine {
namespace {

Distribution dense(std::vector<double> p) {
  std::vector<int32_t> ids;
  std::vector<double> mass;
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) {
      ids.push_back(int32_t(i));
      mass.push_back(p[i] / total);
    }
  }
  return {ids, mass};
}

// Some ids have no mass, others little or much.
Distribution random_distribution(int n, std::mt19937& random) {
  std::vector<double> p(static_cast<size_t>(n));
  while (std::accumulate(p.begin(), p.end(), 0.0) == 0) {
    for (double& x : p) {
      x = random() % 4 == 0 ? 0.0 : std::exp(double(random() % 1000) * 0.003);
    }
  }
  return dense(p);
}

// `count` tokens drawn from q without replacement, by the `count` highest of log q + noise; fewer
// when q has fewer.
std::vector<int32_t> draw_without_replacement(const Distribution& q, int count, DrawKey key) {
  key.purpose = Purpose::kDraftSample;
  std::vector<std::pair<double, int32_t>> heights;
  for (size_t i = 0; i < q.ids.size(); ++i) {
    const double u =
        uniform53(draw_word(key, uint32_t(2 * i)), draw_word(key, uint32_t(2 * i + 1)));
    if (q.probabilities[i] > 0) {
      heights.emplace_back(-std::log(q.probabilities[i]) + std::log(-std::log1p(-u)), q.ids[i]);
    }
  }
  std::sort(heights.begin(), heights.end());
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < heights.size() && i < size_t(count); ++i) {
    tokens.push_back(heights[i].second);
  }
  return tokens;
}

DrawKey key_of(uint64_t seed, uint32_t position = 0) {
  DrawKey key;
  key.seed = seed;
  key.position = position;
  return key;
}

// A tiny language model: a table of next-token distributions by the last two tokens.
class TinyModel {
 public:
  static constexpr int kVocabulary = 4;

  explicit TinyModel(uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < (kVocabulary + 1) * (kVocabulary + 1); ++i) {
      table_.push_back(random_distribution(kVocabulary, random));
    }
  }
  const Distribution& next(std::span<const int32_t> text) const {
    const auto back = [&](size_t i) { return text.size() < i ? 0 : text[text.size() - i] + 1; };
    return table_[size_t(back(2) * (kVocabulary + 1) + back(1))];
  }

  // Probabilities of all texts of `length` tokens, the first token the slowest index.
  std::vector<double> texts(int length) const {
    std::vector<double> result;
    std::vector<int32_t> text;
    const std::function<void(double)> grow = [&](double mass) {
      if (int(text.size()) == length) {
        result.push_back(mass);
        return;
      }
      const Distribution& p = next(text);
      for (int32_t token = 0; token < kVocabulary; ++token) {
        text.push_back(token);
        grow(mass * p.probability(token));
        text.pop_back();
      }
    };
    grow(1.0);
    return result;
  }

  static size_t cell(std::span<const int32_t> text, int length) {
    size_t index = 0;
    for (int i = 0; i < length; ++i) index = index * kVocabulary + size_t(text[size_t(i)]);
    return index;
  }

 private:
  std::vector<Distribution> table_;
};

// ---- the parts ----

TEST(Rejection, ResidualIsThePositivePartNormalised) {
  const Distribution p({1, 4, 6, 9}, {0.4, 0.3, 0.2, 0.1});
  const Distribution q({0, 1, 4, 9}, {0.1, 0.1, 0.5, 0.3});
  const Distribution r = residual(p, q);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{1, 6}));
  EXPECT_NEAR(r.probabilities[0], 0.6, 1e-15);
  EXPECT_NEAR(r.probabilities[1], 0.4, 1e-15);
  const Distribution without = residual(p, one_hot(4));
  EXPECT_EQ(without.ids, (std::vector<int32_t>{1, 6, 9}));
  EXPECT_NEAR(without.probability(1), 4.0 / 7, 1e-15);
}

TEST(Rejection, AResidualWithoutMassIsTheTarget) {
  const Distribution p({1, 4, 6}, {0.5, 0.3, 0.2});
  const Distribution r = residual(p, p);
  EXPECT_EQ(r.ids, p.ids);
  EXPECT_EQ(r.probabilities, p.probabilities);
  EXPECT_EQ(residual(one_hot(3), one_hot(3)).ids, std::vector<int32_t>{3});
}

TEST(Rejection, DrawAtInvertsTheCumulativeSum) {
  const Distribution p({2, 3, 5, 8}, {0.25, 0.0, 0.5, 0.25});
  EXPECT_EQ(draw_at(p, 0.0), 2);
  EXPECT_EQ(draw_at(p, 0.2499), 2);
  EXPECT_EQ(draw_at(p, 0.25), 5);
  EXPECT_EQ(draw_at(p, 0.7499), 5);
  EXPECT_EQ(draw_at(p, 0.75), 8);
  EXPECT_EQ(draw_at(p, 1.0 - 0x1p-53), 8);
  EXPECT_EQ(draw_at(Distribution({0, 7}, {0.0, 3.0}), 0.0), 7);  // unnormalised, a zero in front
  EXPECT_EQ(draw_at(Distribution({7, 9}, {3.0, 0.0}), 1.0 - 0x1p-53), 7);
  EXPECT_THROW(draw_at(Distribution(), 0.5), Error);
}

// ---- chains ----

// Exact enumeration with the code's residual: accepted mass + rejected mass * residual == p.
TEST(Rejection, ChainLawByExactEnumeration) {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const Distribution p = random_distribution(8, random);
    const Distribution q = round % 5 == 0 ? one_hot(p.ids.front()) : random_distribution(8, random);
    double accepted = 0;
    for (int32_t x = 0; x < 8; ++x) accepted += std::min(p.probability(x), q.probability(x));
    const Distribution rest = residual(p, q);
    for (int32_t x = 0; x < 8; ++x) {
      const double law =
          std::min(p.probability(x), q.probability(x)) + (1 - accepted) * rest.probability(x);
      ASSERT_NEAR(law, p.probability(x), 1e-14);
    }
  }
}

enum class Draft { kOther, kTarget, kOneHot, kNearTarget };

void check_chains(Draft draft, int longest) {
  constexpr int kTokens = 4;
  constexpr int kRuns = 150000;
  const TinyModel target(7), other(8);
  const std::vector<double> expected = target.texts(kTokens);
  std::vector<int64_t> counts(expected.size());
  int64_t tests = 0, passed = 0;
  double expected_passed = 0, variance = 0;
  const auto propose = [&](std::span<const int32_t> text) -> Distribution {
    const Distribution& p = target.next(text);
    switch (draft) {
      case Draft::kOther:
        return other.next(text);
      case Draft::kTarget:
        return p;
      case Draft::kOneHot: {
        const auto best = std::max_element(p.probabilities.begin(), p.probabilities.end());
        return one_hot(p.ids[size_t(best - p.probabilities.begin())]);
      }
      case Draft::kNearTarget:
        break;
    }
    std::vector<double> blurred;
    for (int32_t x = 0; x < TinyModel::kVocabulary; ++x) {
      blurred.push_back(0.9 * p.probability(x) + 0.025);
    }
    return dense(blurred);
  };
  for (uint64_t run = 0; run < kRuns; ++run) {
    std::vector<int32_t> text;
    while (text.size() < kTokens) {
      std::vector<int32_t> hypothesis = text, chain;
      std::vector<Distribution> q, p = {target.next(text)};
      for (int i = 0; i < longest; ++i) {
        q.push_back(propose(hypothesis));
        const DrawKey key = key_of(run, uint32_t(hypothesis.size()));
        chain.push_back(draw_without_replacement(q.back(), 1, key).front());
        hypothesis.push_back(chain.back());
        p.push_back(target.next(hypothesis));
      }
      const ChainVerdict verdict =
          reject_chain_in_law(chain, q, p, key_of(run, uint32_t(text.size())));
      for (int i = 0; i <= std::min(verdict.accepted, longest - 1); ++i) {
        // The chance of this test given the prefix; over q's draw it is sum min(p, q).
        double chance = 0;
        for (int32_t x = 0; x < TinyModel::kVocabulary; ++x) {
          chance += std::min(p[size_t(i)].probability(x), q[size_t(i)].probability(x));
        }
        ++tests;
        passed += i < verdict.accepted;
        expected_passed += chance;
        variance += chance * (1 - chance);
      }
      text.insert(text.end(), chain.begin(), chain.begin() + verdict.accepted);
      text.push_back(verdict.token);
    }
    ++counts[TinyModel::cell(text, kTokens)];
  }
  EXPECT_GT(goodness_of_fit(counts, expected), kFalseAlarm);
  // As many drafts pass as can: a program that rejects too much would still have the right law.
  EXPECT_NEAR(double(passed), expected_passed, 5 * std::sqrt(variance) + 1e-6 * double(tests));
  if (draft == Draft::kTarget) {
    EXPECT_EQ(passed, tests);
  }
}

TEST(Rejection, ChainsHaveTheTargetsLaw) { check_chains(Draft::kOther, 3); }
TEST(Rejection, ChainsOfOneHaveTheTargetsLaw) { check_chains(Draft::kOther, 1); }
TEST(Rejection, ChainsFromTheTargetAlwaysPass) { check_chains(Draft::kTarget, 3); }
TEST(Rejection, OneHotChainsHaveTheTargetsLaw) { check_chains(Draft::kOneHot, 2); }
TEST(Rejection, NearChainsHaveTheTargetsLaw) { check_chains(Draft::kNearTarget, 4); }

TEST(Rejection, AnEmptyChainDrawsFromTheTarget) {
  std::mt19937 random(3);
  const std::vector<Distribution> p = {random_distribution(12, random)};
  std::vector<int64_t> counts(12);
  std::vector<double> expected;
  for (int32_t x = 0; x < 12; ++x) expected.push_back(p[0].probability(x));
  for (uint32_t i = 0; i < 100000; ++i) {
    const ChainVerdict verdict = reject_chain_in_law({}, {}, p, key_of(5, i));
    ASSERT_EQ(verdict.accepted, 0);
    ++counts[size_t(verdict.token)];
  }
  EXPECT_GT(goodness_of_fit(counts, expected), kFalseAlarm);
}

TEST(Rejection, TokensWithoutTargetMassNeverPass) {
  const std::vector<int32_t> chain = {1};
  const std::vector<Distribution> q = {dense({0.5, 0.5, 0})},
                                  p = {dense({0.3, 0, 0.7}), one_hot(0)};
  for (uint32_t i = 0; i < 10000; ++i) {
    ASSERT_EQ(reject_chain_in_law(chain, q, p, key_of(1, i)).accepted, 0);
    ASSERT_EQ(reject_siblings_in_law(chain, q[0], p[0], key_of(1, i)).child, -1);
  }
}

// ---- siblings ----

// The law over every ordered set that q can give, with the code's residual for what a rejection
// leaves.
std::vector<double> enumerate_siblings(const Distribution& p, const Distribution& q, int count,
                                       int n) {
  std::vector<double> law(size_t(n), 0.0);
  const std::function<void(double, Distribution, std::vector<double>, int)> go =
      [&](double mass, const Distribution& r, const std::vector<double>& s, int left) {
        const double total = std::accumulate(s.begin(), s.end(), 0.0);
        if (left == 0 || total <= 0) {
          for (int32_t x = 0; x < n; ++x) law[size_t(x)] += mass * r.probability(x);
          return;
        }
        const Distribution draft = dense(s);
        for (int32_t c = 0; c < n; ++c) {
          const double drawn = draft.probability(c);
          if (drawn <= 0) continue;
          const double pass = std::min(1.0, r.probability(c) / drawn);
          law[size_t(c)] += mass * drawn * pass;
          if (pass >= 1) continue;
          std::vector<double> rest = s;
          rest[size_t(c)] = 0;
          go(mass * drawn * (1 - pass), residual(r, draft), rest, left - 1);
        }
      };
  std::vector<double> s;
  for (int32_t x = 0; x < n; ++x) s.push_back(q.probability(x));
  go(1.0, p, s, count);
  return law;
}

TEST(Rejection, SiblingLawByExactEnumeration) {
  std::mt19937 random(4);
  for (int round = 0; round < 60; ++round) {
    const int n = 3 + round % 4;
    const Distribution p = random_distribution(n, random), q = random_distribution(n, random);
    for (int count = 1; count <= n; ++count) {
      const std::vector<double> law = enumerate_siblings(p, q, count, n);
      for (int32_t x = 0; x < n; ++x) ASSERT_NEAR(law[size_t(x)], p.probability(x), 1e-12);
    }
  }
}

TEST(Rejection, SiblingsHaveTheTargetsLaw) {
  constexpr int kVocabulary = 7;
  constexpr uint32_t kRuns = 100000;
  std::mt19937 random(6);
  for (int count = 1; count <= kVocabulary; ++count) {
    const Distribution p = random_distribution(kVocabulary, random);
    const Distribution q = count == 3 ? p : random_distribution(kVocabulary, random);
    std::vector<double> expected;
    for (int32_t x = 0; x < kVocabulary; ++x) expected.push_back(p.probability(x));
    std::vector<int64_t> counts(kVocabulary);
    double first_passes = 0;
    for (uint32_t i = 0; i < kRuns; ++i) {
      const std::vector<int32_t> siblings = draw_without_replacement(q, count, key_of(9, i));
      const SiblingsVerdict verdict = reject_siblings_in_law(siblings, q, p, key_of(9, i));
      if (verdict.child >= 0) {
        ASSERT_EQ(verdict.token, siblings[size_t(verdict.child)]);
      }
      ++counts[size_t(verdict.token)];
      first_passes += verdict.child == 0;
    }
    EXPECT_GT(goodness_of_fit(counts, expected), kFalseAlarm) << count;
    double chance = 0;
    for (int32_t x = 0; x < kVocabulary; ++x)
      chance += std::min(p.probability(x), q.probability(x));
    EXPECT_NEAR(first_passes / kRuns, chance, 5 * std::sqrt(chance * (1 - chance) / kRuns) + 1e-9);
  }
}

// A tree whose nodes have two or three children, walked from node to node until three tokens are
// out.
TEST(Rejection, TreesOfSiblingsHaveTheTargetsLaw) {
  constexpr int kTokens = 3;
  constexpr uint64_t kRuns = 150000;
  const TinyModel target(17), draft(18);
  const std::vector<double> expected = target.texts(kTokens);
  std::vector<int64_t> counts(expected.size());
  for (uint64_t run = 0; run < kRuns; ++run) {
    std::vector<int32_t> text;
    for (int depth = 0; text.size() < kTokens; ++depth) {
      const DrawKey key = key_of(run, uint32_t(text.size()));
      const Distribution& q = draft.next(text);
      const std::vector<int32_t> siblings = draw_without_replacement(q, 3 - depth % 2, key);
      text.push_back(reject_siblings_in_law(siblings, q, target.next(text), key).token);
    }
    ++counts[TinyModel::cell(text, kTokens)];
  }
  EXPECT_GT(goodness_of_fit(counts, expected), kFalseAlarm);
}

TEST(Rejection, OneSiblingEqualsAChainOfOne) {
  std::mt19937 random(12);
  for (uint32_t i = 0; i < 2000; ++i) {
    const std::vector<Distribution> q = {random_distribution(6, random)};
    const std::vector<Distribution> p = {random_distribution(6, random), one_hot(0)};
    const std::vector<int32_t> drawn = draw_without_replacement(q[0], 1, key_of(2, i));
    const ChainVerdict chain = reject_chain_in_law(drawn, q, p, key_of(2, i));
    const SiblingsVerdict siblings = reject_siblings_in_law(drawn, q[0], p[0], key_of(2, i));
    ASSERT_EQ(chain.accepted == 1, siblings.child == 0);
    ASSERT_EQ(siblings.token, chain.accepted == 1 ? drawn[0] : chain.token);
  }
}

TEST(Rejection, DraftsThatWereNotDrawnAreErrors) {
  const std::vector<Distribution> q = {dense({0.5, 0.5, 0})}, p = {dense({1, 1, 1}), one_hot(0)};
  const std::vector<int32_t> impossible = {2}, possible = {1}, repeated = {1, 1};
  EXPECT_THROW(reject_chain_in_law(impossible, q, p, key_of(0)), Error);
  EXPECT_THROW(reject_chain_in_law(repeated, q, p, key_of(0)), Error);  // sizes do not fit
  EXPECT_THROW(reject_chain_in_law(possible, q, std::span(p).first(1), key_of(0)), Error);
  EXPECT_THROW(reject_siblings_in_law(impossible, q[0], p[0], key_of(0)), Error);
  EXPECT_THROW(reject_siblings_in_law(repeated, one_hot(1), one_hot(0), key_of(0)), Error);
}

}  // namespace
}  // namespace tutti::engine
