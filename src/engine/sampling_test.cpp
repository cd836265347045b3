#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "base/error.h"
#include "engine/goodness_of_fit.h"
#include "tensor/kernels.h"

namespace tutti::engine {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
const char* const kTemperatureLast =
    "bias;repetition;presence_frequency;top_k;typical;top_p;min_p;temperature";

// The rules of the sheet once more, in fp64, on a dense vector, in the most direct way: a removed
// token is minus infinity.
class Reference {
 public:
  explicit Reference(std::span<const float> logits) : l_(logits.begin(), logits.end()) {}

  void apply(const Sampling& s, const std::vector<int>& prompt, const std::vector<int>& output) {
    for (const int id : s.suppressed) l_[size_t(id)] = kNever;
    if (s.allowed) {
      for (size_t i = 0; i < l_.size(); ++i) {
        if (!((*s.allowed)[i / 64] >> (i % 64) & 1)) l_[i] = kNever;
      }
    }
    for (const Rule rule : s.order) step(rule, s, prompt, output);
  }

  std::vector<double> probabilities() const {
    const double most = *std::max_element(l_.begin(), l_.end());
    std::vector<double> p;
    for (const double l : l_) p.push_back(std::exp(l - most));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= total;
    return p;
  }

  std::vector<int> survivors() const {
    std::vector<int> ids;
    for (size_t i = 0; i < l_.size(); ++i) {
      if (l_[i] != kNever) ids.push_back(int(i));
    }
    return ids;
  }

 private:
  void step(Rule rule, const Sampling& s, std::vector<int> seen, const std::vector<int>& output) {
    switch (rule) {
      case Rule::kBias:
        for (const auto& [id, bias] : s.logit_bias) l_[size_t(id)] += double(bias);
        break;
      case Rule::kRepetition: {
        seen.insert(seen.end(), output.begin(), output.end());
        if (s.penalty_window >= 0 && seen.size() > size_t(s.penalty_window)) {
          seen.erase(seen.begin(), seen.end() - s.penalty_window);
        }
        std::sort(seen.begin(), seen.end());
        seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
        for (const int id : seen) {
          double& l = l_[size_t(id)];
          l = l > 0 ? l / double(s.repetition_penalty) : l * double(s.repetition_penalty);
        }
        break;
      }
      case Rule::kPresenceFrequency:
        for (size_t i = 0; i < l_.size(); ++i) {
          const auto count = std::count(output.begin(), output.end(), int(i));
          if (count > 0) {
            l_[i] -= double(s.presence_penalty) + double(s.frequency_penalty) * double(count);
          }
        }
        break;
      case Rule::kTemperature:
        for (double& l : l_) l /= double(s.temperature);
        break;
      case Rule::kTopK:
        if (s.top_k > 0) keep_first(by([this](int i) { return -l_[size_t(i)]; }), s.top_k, 2.0);
        break;
      case Rule::kTopP:
        if (s.top_p < 1) {
          keep_first(by([this](int i) { return -l_[size_t(i)]; }), int(l_.size()), double(s.top_p));
        }
        break;
      case Rule::kMinP: {
        const std::vector<double> p = probabilities();
        const double most = *std::max_element(p.begin(), p.end());
        for (size_t i = 0; i < p.size(); ++i) {
          if (p[i] < double(s.min_p) * most) l_[i] = kNever;
        }
        break;
      }
      case Rule::kTypical: {
        if (s.typical_p >= 1) break;
        const std::vector<double> p = probabilities();
        double entropy = 0;
        for (const double x : p) entropy -= x > 0 ? x * std::log(x) : 0.0;
        keep_first(by([&](int i) { return std::fabs(-std::log(p[size_t(i)]) - entropy); }),
                   int(p.size()), double(s.typical_p));
        break;
      }
    }
  }

  std::vector<int> by(const std::function<double(int)>& key) const {
    std::vector<int> order(l_.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      const double x = key(a), y = key(b);
      return x != y ? x < y : a < b;
    });
    return order;
  }

  void keep_first(const std::vector<int>& order, int most, double mass) {
    const std::vector<double> p = probabilities();
    double sum = 0;
    for (int rank = 0; rank < int(order.size()); ++rank) {
      if (rank >= most || (rank > 0 && sum >= mass)) l_[size_t(order[size_t(rank)])] = kNever;
      sum += p[size_t(order[size_t(rank)])];
    }
  }

  std::vector<double> l_;
};

std::vector<float> random_logits(int n, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits;
  logits.reserve(size_t(n));
  for (int i = 0; i < n; ++i) logits.push_back(normal(random));
  return logits;
}

History history_of(const std::vector<int>& prompt, const std::vector<int>& output, int window) {
  History history(window);
  history.append_prompt(prompt);
  for (const int token : output) history.append_output(token);
  return history;
}

DrawKey key_at(uint32_t position, uint64_t seed = 1) {
  DrawKey key;
  key.seed = seed;
  key.position = position;
  return key;
}

Picked pick(std::vector<float> logits, const Sampling& s, const DrawKey& key,
            const History& history = History()) {
  return Sampler().pick(logits, s, history, key);
}

Distribution distribution(std::vector<float> logits, const Sampling& s,
                          const History& history = History()) {
  return Sampler().distribution(logits, s, history);
}

// ---- the law of the draw ----

const std::vector<int> kPrompt = {3, 7, 7, 12, 20};
const std::vector<int> kOutput = {7, 9, 9, 9, 30, 3};

struct LawCase {
  const char* name;
  std::function<void(Sampling&)> set;
};

void PrintTo(const LawCase& law_case, std::ostream* out) { *out << law_case.name; }

class Law : public testing::TestWithParam<LawCase> {};

TEST_P(Law, DrawsFollowTheExactProbabilities) {
  constexpr int kVocabulary = 50;
  constexpr int kDraws = 120000;
  Sampling s;
  GetParam().set(s);
  validate(s, kVocabulary);
  const std::vector<float> logits = random_logits(kVocabulary, 1.5f, 11);
  Reference reference(logits);
  reference.apply(s, kPrompt, kOutput);
  const std::vector<double> expected = reference.probabilities();
  const History history = history_of(kPrompt, kOutput, s.penalty_window);

  Sampler sampler;
  std::vector<float> row(logits.size());
  std::vector<int64_t> counts(kVocabulary);
  for (uint32_t i = 0; i < kDraws; ++i) {
    std::copy(logits.begin(), logits.end(), row.begin());
    ++counts[size_t(sampler.pick(row, s, history, key_at(i)).token)];
  }
  EXPECT_GT(goodness_of_fit(counts, expected), kFalseAlarm);

  // The same law, handed out for rejection sampling.
  const Distribution p = distribution(logits, s, history);
  EXPECT_EQ(p.ids, reference.survivors());
  for (int i = 0; i < kVocabulary; ++i) EXPECT_NEAR(p.probability(i), expected[size_t(i)], 1e-6);
}

void set_all(Sampling& s) {
  s.logit_bias = {{4, 1.5f}, {5, -2.0f}};
  s.repetition_penalty = 1.3f;
  s.penalty_window = 8;
  s.presence_penalty = 0.4f;
  s.frequency_penalty = 0.3f;
  s.temperature = 1.4f;
  s.top_k = 30;
  s.top_p = 0.93f;
  s.min_p = 0.03f;
  s.typical_p = 0.9f;
}

INSTANTIATE_TEST_SUITE_P(
    Rules, Law,
    testing::Values(
        LawCase{"none", [](Sampling&) {}},
        LawCase{"bias",
                [](Sampling& s) { s.logit_bias = {{3, 2.0f}, {40, -1.0f}, {8, -kInfinity}}; }},
        LawCase{"suppressed", [](Sampling& s) { s.suppressed = {0, 13, 49}; }},
        LawCase{"allowed",
                [](Sampling& s) {
                  s.allowed = std::make_shared<std::vector<uint64_t>>(1, 0x0003'0f0f'5555'1230u);
                }},
        LawCase{"allowed_few",
                [](Sampling& s) {
                  s.allowed = std::make_shared<std::vector<uint64_t>>(1, ~0ull << 44 | 0x24u);
                }},
        LawCase{"repetition", [](Sampling& s) { s.repetition_penalty = 1.7f; }},
        LawCase{"repetition_window",
                [](Sampling& s) {
                  s.repetition_penalty = 0.6f;
                  s.penalty_window = 3;
                }},
        LawCase{"presence", [](Sampling& s) { s.presence_penalty = 1.1f; }},
        LawCase{"frequency", [](Sampling& s) { s.frequency_penalty = -0.5f; }},
        LawCase{"temperature_low", [](Sampling& s) { s.temperature = 0.6f; }},
        LawCase{"temperature_high", [](Sampling& s) { s.temperature = 2.5f; }},
        LawCase{"top_k", [](Sampling& s) { s.top_k = 7; }},
        LawCase{"top_p", [](Sampling& s) { s.top_p = 0.8f; }},
        LawCase{"min_p", [](Sampling& s) { s.min_p = 0.1f; }},
        LawCase{"typical", [](Sampling& s) { s.typical_p = 0.7f; }},
        LawCase{"top_k_top_p_hot",
                [](Sampling& s) {
                  s.temperature = 1.8f;
                  s.top_k = 20;
                  s.top_p = 0.7f;
                }},
        LawCase{"top_k_top_p_temperature_last",
                [](Sampling& s) {
                  s.temperature = 1.8f;
                  s.top_k = 20;
                  s.top_p = 0.7f;
                  s.order = parse_order(kTemperatureLast);
                }},
        LawCase{"all", set_all},
        LawCase{"all_temperature_last",
                [](Sampling& s) {
                  set_all(s);
                  s.order = parse_order(kTemperatureLast);
                }},
        LawCase{"penalties_last",
                [](Sampling& s) {
                  set_all(s);
                  s.order = parse_order(
                      "typical;min_p;top_p;top_k;temperature;presence_frequency;repetition;bias");
                }}),
    [](const testing::TestParamInfo<LawCase>& info) { return std::string(info.param.name); });

TEST(Sampling, OrderChangesTheSurvivors) {
  Sampling s;
  s.temperature = 1.8f;
  s.top_p = 0.7f;
  const std::vector<float> logits = random_logits(50, 1.5f, 11);
  const size_t heated_first = distribution(logits, s).ids.size();
  s.order = parse_order(kTemperatureLast);
  EXPECT_LT(distribution(logits, s).ids.size(), heated_first);
}

// Random parameters and orders, on small vocabularies and on ones long enough for the bucket
// search.
TEST(Sampling, DistributionEqualsTheReferenceForRandomSettings) {
  std::mt19937 random(5);
  const auto uniform = [&](float a, float b) {
    return std::uniform_real_distribution<float>(a, b)(random);
  };
  for (int round = 0; round < 400; ++round) {
    const int n = round % 4 == 0 ? 6000 : 40 + round;
    std::vector<float> logits = random_logits(n, uniform(0.5f, 4.0f), uint32_t(round));
    if (round % 3 == 0) {  // a coarse grid: ties everywhere
      for (float& l : logits) l = std::round(l * 2) / 2;
    }
    Sampling s;
    s.temperature = uniform(0.5f, 2.0f);
    if (random() % 2) s.top_k = 1 + int(random() % uint32_t(n));
    if (random() % 2) s.top_p = uniform(0.05f, 0.999f);
    if (random() % 2) s.min_p = uniform(0.0001f, 0.3f);
    if (random() % 2) s.typical_p = uniform(0.05f, 0.999f);
    if (random() % 2) s.repetition_penalty = uniform(0.7f, 1.5f);
    if (random() % 2) s.presence_penalty = uniform(-1, 1);
    s.penalty_window = int(random() % 13) - 1;
    std::shuffle(s.order.begin(), s.order.end(), random);
    validate(s, n);
    Reference reference(logits);
    reference.apply(s, kPrompt, kOutput);
    const std::vector<double> expected = reference.probabilities();
    const Distribution p = distribution(logits, s, history_of(kPrompt, kOutput, s.penalty_window));
    ASSERT_EQ(p.ids, reference.survivors()) << "round " << round << ' ' << print_order(s.order);
    for (size_t i = 0; i < p.ids.size(); ++i) {
      const double exact = expected[size_t(p.ids[i])];
      ASSERT_NEAR(p.probabilities[i], exact, 1e-5 * exact) << "round " << round;
    }
  }
}

// ---- ties at the border keep the lower id ----

TEST(Sampling, TiesKeepTheLowerId) {
  const std::vector<float> flat(8, 0.25f);
  Sampling s;
  s.top_k = 3;
  EXPECT_EQ(distribution(flat, s).ids, (std::vector<int32_t>{0, 1, 2}));
  s = Sampling();
  s.top_p = 0.5f;  // mass 4/8 is reached by the fourth
  EXPECT_EQ(distribution(flat, s).ids, (std::vector<int32_t>{0, 1, 2, 3}));
  s.top_p = 0.51f;  // the token that crosses p is kept
  EXPECT_EQ(distribution(flat, s).ids, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  s = Sampling();
  s.typical_p = 0.25f;
  EXPECT_EQ(distribution(flat, s).ids, (std::vector<int32_t>{0, 1}));
  s = Sampling();
  s.min_p = 1.0f;  // all equal the largest
  EXPECT_EQ(distribution(flat, s).ids.size(), 8u);

  const std::vector<float> mixed = {1, 3, 2, 3, 2, 2, 0, 3};
  s = Sampling();
  s.top_k = 4;
  EXPECT_EQ(distribution(mixed, s).ids, (std::vector<int32_t>{1, 2, 3, 7}));
  s.top_k = 2;
  EXPECT_EQ(distribution(mixed, s).ids, (std::vector<int32_t>{1, 3}));
  s = Sampling();
  s.min_p = 1.0f;
  EXPECT_EQ(distribution(mixed, s).ids, (std::vector<int32_t>{1, 3, 7}));
}

TEST(Sampling, TiesKeepTheLowerIdInLongVocabularies) {
  const std::vector<float> flat(4096, -3.0f);
  std::vector<int32_t> first(1024);
  std::iota(first.begin(), first.end(), 0);
  for (float Sampling::* const field : {&Sampling::top_p, &Sampling::typical_p}) {
    Sampling s;
    s.*field = 0.25f;
    EXPECT_EQ(distribution(flat, s).ids, first);
  }
}

TEST(Sampling, TruncationKeepsAtLeastOne) {
  const std::vector<float> logits = {0, 2, 1};
  Sampling s;
  s.top_p = 0;
  EXPECT_EQ(distribution(logits, s).ids, std::vector<int32_t>{1});
  s = Sampling();
  s.typical_p = 0;
  EXPECT_EQ(distribution(logits, s).ids.size(), 1u);
  // Half the mass on one token, half on 1999 others: none is near the mean.
  std::vector<float> two_levels(2000, -10.0f);
  two_levels[1234] = -10.0f + std::log(1999.0f);
  EXPECT_EQ(distribution(two_levels, s).ids.size(), 1u);
  s = Sampling();
  s.min_p = 1;
  EXPECT_EQ(distribution(logits, s).ids, std::vector<int32_t>{1});
}

// ---- greedy ----

TEST(Sampling, GreedyTakesTheLowestBest) {
  Sampling s;
  s.temperature = 0;
  EXPECT_EQ(pick({1, 5, 2, 5}, s, key_at(0)).token, 1);
  s.logit_bias = {{3, 0.5f}};
  EXPECT_EQ(pick({1, 5, 2, 5}, s, key_at(0)).token, 3);
  s = Sampling();
  s.temperature = 0;
  s.suppressed = {1};
  EXPECT_EQ(pick({1, 5, 2, 5}, s, key_at(0)).token, 3);
  // Typical would drop a dominant token; greedy ignores truncation.
  s = Sampling();
  s.temperature = 0;
  s.typical_p = 0.1f;
  EXPECT_EQ(pick({1, 1, 2, 1}, s, key_at(0)).token, 2);
  // Penalties move the choice: 5 / 2 < 3.
  s = Sampling();
  s.temperature = 0;
  s.repetition_penalty = 2;
  EXPECT_EQ(pick({1, 5, 3}, s, key_at(0), history_of({1}, {}, -1)).token, 2);
  s = Sampling();
  s.temperature = 0;
  s.frequency_penalty = 1;
  EXPECT_EQ(pick({1, 5, 3}, s, key_at(0), history_of({1, 1, 1}, {1, 1}, -1)).token, 1);
  EXPECT_EQ(pick({1, 5, 3}, s, key_at(0), history_of({}, {1, 1, 1}, -1)).token, 2);
  const Distribution p = distribution({1, 5, 2, 5}, s);
  EXPECT_EQ(p.ids, std::vector<int32_t>{1});
  EXPECT_EQ(p.probabilities, std::vector<double>{1.0});
}

// ---- seeds and shared noise ----

TEST(Sampling, ASeedReproducesAndPositionsDiffer) {
  const std::vector<float> logits = random_logits(300, 1, 2);
  Sampling plain, cut;
  cut.top_p = 0.9f;
  Sampler reused;
  std::vector<int32_t> first, second, shifted, other_seed;
  for (uint32_t i = 0; i < 200; ++i) {
    first.push_back(pick(logits, plain, key_at(i)).token);
    std::vector<float> row = logits;
    reused.pick(row, cut, History(), key_at(i + 7));  // leaves nothing behind
    row = logits;
    second.push_back(reused.pick(row, plain, History(), key_at(i)).token);
    shifted.push_back(pick(logits, plain, key_at(i + 1000)).token);
    other_seed.push_back(pick(logits, plain, key_at(i, 2)).token);
  }
  EXPECT_EQ(first, second);
  EXPECT_NE(first, shifted);
  EXPECT_NE(first, other_seed);
}

TEST(Sampling, TruncationKeepsTheNoiseOfATokenThatSurvives) {
  constexpr int kVocabulary = 1000;
  const std::vector<float> logits = random_logits(kVocabulary, 2, 3);
  std::vector<Sampling> cuts(5);
  cuts[0].top_k = 40;
  cuts[1].top_p = 0.8f;
  cuts[2].min_p = 0.05f;
  cuts[3].typical_p = 0.6f;
  cuts[4].suppressed = {0, 1, 2, 3};
  int survived = 0, fell = 0;
  for (const Sampling& s : cuts) {
    const std::vector<int32_t> kept = distribution(logits, s).ids;
    std::vector<float> noise(kVocabulary);
    for (uint32_t i = 0; i < 300; ++i) {
      const int32_t whole = pick(logits, Sampling(), key_at(i)).token;
      const int32_t token = pick(logits, s, key_at(i)).token;
      tensor::kernels().gumbel(key_at(i), nullptr, kVocabulary, noise.data());
      int32_t highest = kept.front();
      for (const int32_t id : kept) {
        if (logits[size_t(id)] + noise[size_t(id)] >
            logits[size_t(highest)] + noise[size_t(highest)]) {
          highest = id;
        }
      }
      ASSERT_EQ(token, highest);
      if (std::binary_search(kept.begin(), kept.end(), whole)) {
        ASSERT_EQ(token, whole);
        ++survived;
      } else {
        ++fell;
      }
    }
  }
  EXPECT_GT(survived, 500);
  EXPECT_GT(fell, 50);
}

// The candidate list and the pass over the whole vocabulary are two programs for one draw.
// What the draw ranks second is what it takes when the first is forbidden, as a token keeps its
// noise.
TEST(Sampling, RankedTokensAreTheDrawsOneAfterTheOther) {
  std::mt19937 random(5);
  std::normal_distribution<float> draw(0, 2);
  for (const bool few : {false, true}) {
    for (const float temperature : {0.0f, 0.6f, 1.3f}) {
      for (int round = 0; round < 20; ++round) {
        std::vector<float> logits(700);
        for (float& l : logits) l = draw(random);
        Sampling s;
        s.temperature = temperature;
        s.logit_bias = {{3, 4.0f}, {690, 3.0f}};
        if (few) {
          auto set = std::make_shared<std::vector<uint64_t>>(11, 0x0001000100010001ull);
          s.allowed = set;
        }
        s.ranked = 6;
        DrawKey key;
        key.seed = 9;
        key.position = uint32_t(round);
        const auto picked = [&](const Sampling& rules) {
          std::vector<float> copy = logits;
          return Sampler().pick(copy, rules, History(), key);
        };
        const Picked all = picked(s);
        ASSERT_EQ(all.ranked.size(), 6u);
        std::vector<float> copy = logits;
        Sampling law = s;
        if (s.greedy()) law.temperature = 1;
        const Distribution p = Sampler().distribution(copy, law, History());
        Sampling rest = s;
        rest.ranked = 0;
        for (size_t i = 0; i < 6; ++i) {
          EXPECT_EQ(picked(rest).token, all.ranked[i].token) << i;
          EXPECT_NEAR(std::exp(double(all.ranked[i].log_probability)),
                      p.probability(all.ranked[i].token), 1e-5);
          if (i > 0) EXPECT_LE(all.ranked[i].height, all.ranked[i - 1].height);
          rest.suppressed.push_back(all.ranked[i].token);
        }
      }
    }
  }
}

TEST(Sampling, ListAndWholeVocabularyDrawTheSame) {
  constexpr int kVocabulary = 5000;
  const std::vector<float> logits = random_logits(kVocabulary, 1.5f, 4);
  Sampling whole, list, few_masked, few_listed;
  whole.temperature = list.temperature = few_masked.temperature = few_listed.temperature = 1.3f;
  whole.suppressed = list.suppressed = {17};
  list.top_k = kVocabulary - 1;  // drops exactly the suppressed token, so a list of all others
  std::vector<uint64_t> words((kVocabulary + 63) / 64, 0x1000'0200'0040'0801u);
  for (int i = 0; i < kVocabulary; ++i) {
    if (!(words[size_t(i / 64)] >> (i % 64) & 1)) few_masked.suppressed.push_back(i);
  }
  few_listed.allowed = std::make_shared<std::vector<uint64_t>>(words);
  for (uint32_t i = 0; i < 300; ++i) {
    ASSERT_EQ(pick(logits, whole, key_at(i)).token, pick(logits, list, key_at(i)).token);
    ASSERT_EQ(pick(logits, few_masked, key_at(i)).token, pick(logits, few_listed, key_at(i)).token);
  }
}

// Logits of some tokens, each with its id, and those of the whole vocabulary with the others
// impossible: every rule and every draw says the same.
TEST(Sampling, LogitsOfSomeTokensPickAsTheWholeVocabularyDoes) {
  constexpr int kVocabulary = 3000;
  std::vector<int32_t> ids;
  for (int32_t id = 2; id < kVocabulary; id += 1 + id % 7) ids.push_back(id);
  auto allowed = std::make_shared<std::vector<uint64_t>>((kVocabulary + 63) / 64);
  for (size_t i = 0; i < allowed->size(); ++i) (*allowed)[i] = 0x00ff'0f0f'3333'5555u << (i % 3);
  Sampling greedy, warm, ruled, few;
  greedy.temperature = 0;
  ruled.temperature = few.temperature = 0.7f;
  ruled.top_k = 40;
  ruled.top_p = 0.9f;
  ruled.min_p = 0.01f;
  ruled.repetition_penalty = 1.3f;
  ruled.logit_bias = {{2, 3.0f}, {3, 50.0f}};  // 3 is not among them
  ruled.suppressed = {ids[5], 3};
  few.typical_p = 0.8f;
  few.allowed = allowed;
  History history;
  history.append_prompt(std::vector<int32_t>{2, 3, ids[9], ids[30]});
  for (Sampling* s : {&greedy, &warm, &ruled, &few}) {
    s->ranked = 4;
    for (uint32_t round = 0; round < 100; ++round) {
      std::vector<float> some = random_logits(int(ids.size()), 2, 50 + round);
      std::vector<float> all(kVocabulary, -kInfinity);
      for (size_t i = 0; i < ids.size(); ++i) all[size_t(ids[i])] = some[i];
      const Picked wanted = Sampler().pick(all, *s, history, key_at(round));
      const Picked got = Sampler().pick(some, *s, history, key_at(round), ids);
      ASSERT_EQ(got.token, wanted.token) << round;
      ASSERT_EQ(got.ranked.size(), wanted.ranked.size());
      for (size_t i = 0; i < got.ranked.size(); ++i) {
        EXPECT_EQ(got.ranked[i].token, wanted.ranked[i].token);
        EXPECT_EQ(got.ranked[i].height, wanted.ranked[i].height);
        EXPECT_NEAR(got.ranked[i].log_probability, wanted.ranked[i].log_probability, 1e-5);
      }
    }
  }
  Sampling none;
  none.allowed = std::make_shared<std::vector<uint64_t>>((kVocabulary + 63) / 64, 0);
  std::vector<float> some = random_logits(int(ids.size()), 2, 7);
  EXPECT_THROW(Sampler().pick(some, none, History(), key_at(0), ids), Error);
}

// ---- log-probabilities ----

TEST(Sampling, LogProbabilities) {
  const std::vector<float> logits = random_logits(60, 2, 6);
  const std::vector<double> raw = Reference(logits).probabilities();
  Sampling s;
  s.temperature = 0.7f;
  s.top_k = 10;
  s.logit_bias = {{2, 1.0f}};
  s.logprobs = 5;
  Reference reference(logits);
  reference.apply(s, {}, {});
  const std::vector<double> processed = reference.probabilities();
  for (const bool wants_processed : {false, true}) {
    s.processed_logprobs = wants_processed;
    const std::vector<double>& p = wants_processed ? processed : raw;
    const Picked picked = pick(logits, s, key_at(3));
    EXPECT_NEAR(picked.log_probability, std::log(processed[size_t(picked.token)]), 1e-5);
    EXPECT_NEAR(picked.raw_log_probability, std::log(raw[size_t(picked.token)]), 1e-5);
    ASSERT_EQ(picked.top.size(), 5u);
    std::vector<int> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return p[size_t(a)] > p[size_t(b)]; });
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(picked.top[i].token, order[i]);
      EXPECT_NEAR(picked.top[i].log_probability, std::log(p[size_t(order[i])]), 1e-5);
    }
  }
  // Asking for them changes no token, and what is forbidden is no alternative.
  Sampling silent = s;
  silent.logprobs = -1;
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_EQ(pick(logits, s, key_at(i)).token, pick(logits, silent, key_at(i)).token);
  }
  EXPECT_TRUE(pick(logits, silent, key_at(0)).top.empty());
  s.logprobs = 60;
  EXPECT_EQ(pick(logits, s, key_at(0)).top.size(), 10u);

  Sampling greedy;
  greedy.temperature = 0;
  greedy.logprobs = 2;
  const Picked picked = pick(logits, greedy, key_at(0));
  EXPECT_EQ(picked.log_probability, 0.0f);
  EXPECT_EQ(picked.top[0].token, picked.token);
  EXPECT_EQ(picked.top[0].log_probability, picked.raw_log_probability);
}

// ---- history ----

TEST(History, CountsFollowAppendAndUndo) {
  std::mt19937 random(9);
  for (const int window : {-1, 0, 1, 4, 7, 64}) {
    const std::vector<int32_t> prompt = {1, 2, 2, 5, 1};
    std::vector<int32_t> output;
    History history(window);
    EXPECT_TRUE(history.empty());
    history.append_prompt(prompt);
    for (int step = 0; step < 2000; ++step) {
      if (random() % 2 == 0 || output.empty()) {
        output.push_back(int32_t(random() % 6));
        history.append_output(output.back());
      } else {
        const size_t count = 1 + random() % std::min<size_t>(output.size(), 3);
        output.resize(output.size() - count);
        history.undo_output(int(count));
      }
      std::vector<int32_t> all = prompt;
      all.insert(all.end(), output.begin(), output.end());
      const size_t from = window < 0 ? 0 : all.size() - std::min(all.size(), size_t(window));
      std::unordered_map<int32_t, int> in_output, in_window;
      for (const int32_t token : output) ++in_output[token];
      for (size_t i = from; i < all.size(); ++i) ++in_window[all[i]];
      ASSERT_EQ(history.output_counts(), in_output);
      ASSERT_EQ(history.window_counts(), in_window);
      ASSERT_EQ(history.output_size(), int(output.size()));
    }
  }
}

TEST(Sampling, PenaltiesIgnoreTokensBeyondTheVocabulary) {
  Sampling s;
  s.temperature = 0;
  s.repetition_penalty = 2;
  EXPECT_EQ(pick({1, 5, 3}, s, key_at(0), history_of({1, 99, -4}, {}, -1)).token, 2);
}

// ---- bad input ----

TEST(Sampling, NothingLeftIsAnError) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const int top_k : {0, 2}) {
      Sampling s;
      s.temperature = temperature;
      s.top_k = top_k;
      s.suppressed = {0, 1, 2};
      EXPECT_THROW(pick({1, 2, 3}, s, key_at(0)), Error);
      EXPECT_THROW(distribution({1, 2, 3}, s), Error);
      s.suppressed.clear();
      s.allowed =
          std::make_shared<std::vector<uint64_t>>(1, ~uint64_t(7));  // only beyond the vocabulary
      EXPECT_THROW(pick({1, 2, 3}, s, key_at(0)), Error);
    }
  }
}

TEST(Sampling, NanLogitsAreNeverPicked) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, 0, nan, 0.5f, -kInfinity, 0.25f};
  std::vector<Sampling> all(6);
  all[1].temperature = 0;
  all[2].top_k = 5;
  all[3].top_p = 0.99f;
  all[4].min_p = 0.01f;
  all[5].typical_p = 0.99f;
  for (const Sampling& s : all) {
    for (uint32_t i = 0; i < 50; ++i) {
      const int32_t token = pick(logits, s, key_at(i)).token;
      EXPECT_TRUE(token == 1 || token == 3 || token == 5) << token;
    }
  }
}

TEST(Sampling, OrderParsesAndPrints) {
  const std::string text = print_order(default_order());
  EXPECT_EQ(text, "bias;repetition;presence_frequency;temperature;top_k;top_p;min_p;typical");
  EXPECT_EQ(parse_order(text), default_order());
  EXPECT_EQ(parse_order(" top_k ;\ttemperature;"),
            (std::vector<Rule>{Rule::kTopK, Rule::kTemperature}));
  EXPECT_TRUE(parse_order("").empty());
  EXPECT_EQ(print_order(parse_order(kTemperatureLast)), kTemperatureLast);
  for (const char* wrong : {"top_q", "top_k;top_k", "top_k;;top_p", ";", "TOP_K", "top_k,top_p"}) {
    EXPECT_THROW(parse_order(wrong), Error) << wrong;
  }
}

TEST(Sampling, ValidationNamesTheField) {
  validate(Sampling(), 10);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::string, std::function<void(Sampling&)>>> wrong = {
      {"temperature", [](Sampling& s) { s.temperature = -1; }},
      {"temperature", [](Sampling& s) { s.temperature = 1e-9f; }},
      {"temperature", [nan](Sampling& s) { s.temperature = nan; }},
      {"temperature", [](Sampling& s) { s.temperature = kInfinity; }},
      {"top_k", [](Sampling& s) { s.top_k = -1; }},
      {"top_p", [](Sampling& s) { s.top_p = 1.5f; }},
      {"top_p", [nan](Sampling& s) { s.top_p = nan; }},
      {"min_p", [](Sampling& s) { s.min_p = -0.1f; }},
      {"typical_p", [](Sampling& s) { s.typical_p = 2; }},
      {"repetition_penalty", [](Sampling& s) { s.repetition_penalty = 0; }},
      {"penalty_window", [](Sampling& s) { s.penalty_window = -2; }},
      {"presence_penalty", [nan](Sampling& s) { s.presence_penalty = nan; }},
      {"frequency_penalty", [](Sampling& s) { s.frequency_penalty = kInfinity; }},
      {"logit_bias", [](Sampling& s) { s.logit_bias = {{10, 1.0f}}; }},
      {"logit_bias", [](Sampling& s) { s.logit_bias = {{-1, 1.0f}}; }},
      {"logit_bias", [](Sampling& s) { s.logit_bias = {{1, kInfinity}}; }},
      {"suppressed", [](Sampling& s) { s.suppressed = {10}; }},
      {"allowed", [](Sampling& s) { s.allowed = std::make_shared<std::vector<uint64_t>>(); }},
      {"logprobs", [](Sampling& s) { s.logprobs = 11; }},
      {"ranked", [](Sampling& s) { s.ranked = 11; }},
      {"order", [](Sampling& s) { s.order = {Rule::kTopK, Rule::kTopK}; }},
      {"order", [](Sampling& s) { s.order = {Rule(99)}; }},
      {"order",
       [](Sampling& s) {
         s.top_k = 3;
         s.order = parse_order("top_p;temperature");
       }},
      {"order",
       [](Sampling& s) {
         s.temperature = 0.5f;
         s.order = parse_order("top_p");
       }},
  };
  for (const auto& [field, set] : wrong) {
    Sampling s;
    set(s);
    try {
      validate(s, 10);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_EQ(std::string(error.what()).rfind("sampling." + field + ":", 0), 0u) << error.what();
    }
  }
}

}  // namespace
}  // namespace tutti::engine
