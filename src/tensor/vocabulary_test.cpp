// Operations over rows of logits against naive double precision, and the sampler's noise against
// its law.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/trial.h"

namespace tutti::tensor {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Rows of the kinds that occur: smooth, peaked, flat, tied, masked, sparse, with NaN, empty.
std::vector<std::vector<float>> rows() {
  Trial trial(1);
  std::vector<std::vector<float>> r;
  for (int n : {1, 2, 15, 16, 17, 100, 4095, 4096, 4097, 8192, 20001}) {
    r.push_back(trial.normals(n, 3.0f));
    r.push_back(trial.normals(n, 30.0f));
    r.emplace_back(size_t(n), 0.25f);
    auto tied = trial.normals(n);
    for (float& x : tied) x = std::round(x);
    r.push_back(tied);
    auto masked = trial.normals(n);
    for (float& x : masked) x = trial.below(10) ? -kInf : x;
    r.push_back(masked);
    masked.assign(size_t(n), -kInf);
    r.push_back(masked);
    masked[size_t(n - 1)] = -5.0f;
    r.push_back(masked);
    auto wrong = trial.normals(n);
    for (float& x : wrong) x = trial.below(5) ? x : std::nanf("");
    r.push_back(wrong);
    std::vector<float> rising(static_cast<size_t>(n));
    std::iota(rising.begin(), rising.end(), -10.0f);
    r.push_back(rising);
    std::reverse(rising.begin(), rising.end());
    r.push_back(rising);
  }
  r.push_back({});
  return r;
}

std::vector<int> ranking(const std::vector<float>& x) {
  std::vector<int> ids;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == x[i]) ids.push_back(int(i));
  }
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int a, int b) { return x[size_t(a)] > x[size_t(b)]; });
  return ids;
}

TEST(VocabStats, MatchesNaiveDoubles) {
  for (const auto& x : rows()) {
    auto ids = ranking(x);
    std::erase_if(ids, [&](int id) { return x[size_t(id)] == -kInf; });
    for (float beta : {1.0f, 0.5f, 1.43f, 10.0f}) {
      const VocabStats s = kernels(Isa::kScalar).vocab_stats(x.data(), int(x.size()), beta);
      ASSERT_EQ(s.best, ids.empty() ? -1 : ids[0]);
      ASSERT_EQ(s.second, ids.size() < 2 ? -1 : ids[1]);
      if (ids.empty()) {
        ASSERT_EQ(s.lse, -kInf);
        continue;
      }
      ASSERT_EQ(s.max, x[size_t(ids[0])]);
      if (ids.size() > 1) {
        ASSERT_EQ(s.second_max, x[size_t(ids[1])]);
      }
      double total = 0, moment = 0;
      for (int id : ids) {
        const double z = (double(x[size_t(id)]) - s.max) * beta;
        total += std::exp(z);
        moment += z * std::exp(z);
      }
      const double lse = double(s.max) * beta + std::log(total);
      ASSERT_NEAR(s.lse, lse, 3e-7 * std::max(1.0, std::abs(lse)) + 2e-6) << x.size();
      ASSERT_NEAR(s.entropy, std::log(total) - moment / total, 1e-5) << x.size();
    }
  }
}

TEST(TopK, MatchesAStableSort) {
  for (const auto& x : rows()) {
    const auto ids = ranking(x);
    for (int k : {0, 1, 2, 5, 40, 1024, 5000}) {
      std::vector<int> got(size_t(k) + 1, -7);
      std::vector<float> values(size_t(k) + 1, -7.0f);
      const int count =
          kernels(Isa::kScalar).top_k(x.data(), int(x.size()), k, got.data(), values.data());
      ASSERT_EQ(count, std::min(k, int(ids.size())));
      for (int i = 0; i < count; ++i) {
        ASSERT_EQ(got[size_t(i)], ids[size_t(i)]) << i << " of " << k;
        ASSERT_EQ(values[size_t(i)], x[size_t(ids[size_t(i)])]);
      }
      ASSERT_EQ(got[size_t(k)], -7);
    }
  }
}

TEST(Softmax, MatchesNaiveDoubles) {
  for (const auto& x : rows()) {
    const auto ids = ranking(x);
    if (ids.size() != x.size() || x.empty() || x[size_t(ids[0])] == -kInf) continue;
    auto y = x;
    kernels(Isa::kScalar).softmax(y.data(), int(y.size()));
    double total = 0;
    for (float v : x) total += std::exp(double(v) - x[size_t(ids[0])]);
    for (size_t i = 0; i < x.size(); ++i) {
      const double z =
          double(x[i]) - x[size_t(ids[0])];  // rounded to fp32 there: relative error z 2^-24
      const double exact = std::exp(z) / total;
      ASSERT_NEAR(y[i], exact, (3e-6 - 0x1p-24 * std::max(z, -1e9)) * exact + 1e-37) << x[i];
    }
  }
}

TEST(Vocabulary, EveryLevelGivesTheScalarBits) {
  const Kernels& scalar = kernels(Isa::kScalar);
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(name(isa));
    const Kernels& k = kernels(isa);
    auto all = rows();
    all.push_back({1.0f, kInf, 2.0f});
    for (const auto& x : all) {
      const int n = int(x.size());
      for (float beta : {1.0f, 1.43f}) {
        const VocabStats a = scalar.vocab_stats(x.data(), n, beta),
                         b = k.vocab_stats(x.data(), n, beta);
        ASSERT_EQ(a.best, b.best);
        ASSERT_EQ(a.second, b.second);
        expect_same_bits({a.max, a.second_max, a.lse, a.entropy},
                         {b.max, b.second_max, b.lse, b.entropy}, "vocab_stats");
      }
      std::vector<int> ids_a(50), ids_b(50);
      std::vector<float> values_a(50), values_b(50);
      ASSERT_EQ(scalar.top_k(x.data(), n, 50, ids_a.data(), values_a.data()),
                k.top_k(x.data(), n, 50, ids_b.data(), values_b.data()));
      ASSERT_EQ(ids_a, ids_b);
      expect_same_bits(values_a, values_b, "top_k");
      auto soft_a = x, soft_b = x;
      scalar.softmax(soft_a.data(), n);
      k.softmax(soft_b.data(), n);
      expect_same_bits(soft_a, soft_b, "softmax");
      const DrawKey key{.seed = uint64_t(n), .request = 3, .path = 5, .position = 7};
      std::vector<float> noise_a(x.size()), noise_b(x.size());
      scalar.gumbel(key, nullptr, n, noise_a.data());
      k.gumbel(key, nullptr, n, noise_b.data());
      expect_same_bits(noise_a, noise_b, "gumbel");
      ASSERT_EQ(scalar.gumbel_argmax(x.data(), n, 0.7f, key),
                k.gumbel_argmax(x.data(), n, 0.7f, key));
    }
  }
}

// The definition, in long double, from draw_word.
long double exact_noise(const DrawKey& key, uint32_t index) {
  const float v = std::min(float((double(draw_word(key, index)) + 0.5) * 0x1p-32), 0x1.fffffep-1f);
  return -std::log(-std::log1p(-(long double)v));
}

TEST(Gumbel, FollowsTheDefinition) {
  const DrawKey key{.seed = 42, .request = 1, .path = 2, .position = 3, .purpose = Purpose::kTest};
  const int n = 100003;
  std::vector<float> noise(n);
  for (Isa isa : available_isas()) {
    kernels(isa).gumbel(key, nullptr, n, noise.data());
    for (int i = 0; i < n; i += isa == Isa::kScalar ? 1 : 997) {
      const long double exact = exact_noise(key, uint32_t(i));
      // -log(E) loses relative, not absolute, accuracy near g = 0; u = 1 - v is rounded below g
      // = 1.25
      ASSERT_NEAR(noise[size_t(i)], double(exact), 3e-7 * std::max(1.0, std::abs(double(exact))))
          << i;
    }
  }
}

TEST(Gumbel, IdsPickTheSameNoise) {
  const DrawKey key{.seed = 43, .position = 11};
  const int n = 50000;
  std::vector<float> all(n);
  kernels().gumbel(key, nullptr, n, all.data());
  Trial trial(9);
  for (int count : {1, 5, 16, 17, 100}) {
    std::vector<int> ids;
    for (int i = 0; i < count; ++i) ids.push_back(trial.below(n));
    for (Isa isa : available_isas()) {
      std::vector<float> some(ids.size());
      kernels(isa).gumbel(key, ids.data(), count, some.data());
      for (size_t i = 0; i < ids.size(); ++i) ASSERT_TRUE(same_bits(some[i], all[size_t(ids[i])]));
    }
  }
  // prefixes agree as well: the noise of a token does not depend on the size of the vocabulary
  std::vector<float> prefix(1000);
  kernels().gumbel(key, nullptr, 999, prefix.data());
  for (int i = 0; i < 999; ++i) ASSERT_TRUE(same_bits(prefix[size_t(i)], all[size_t(i)]));
}

TEST(Gumbel, KolmogorovSmirnovAgainstTheLaw) {
  const DrawKey key{.seed = 44, .purpose = Purpose::kTest};
  const int n = 1 << 20;
  std::vector<float> noise(n);
  kernels().gumbel(key, nullptr, n, noise.data());
  std::sort(noise.begin(), noise.end());
  double distance = 0;
  for (int i = 0; i < n; ++i) {
    const double cdf = std::exp(-std::exp(-double(noise[size_t(i)])));
    distance =
        std::max({distance, std::abs(cdf - double(i) / n), std::abs(cdf - double(i + 1) / n)});
  }
  EXPECT_LT(distance * std::sqrt(double(n)), 1.95);  // exceeded with probability 0.001
  // the upper tail keeps its resolution: the 1,000 largest are all different and spaced like the
  // law
  for (int i = n - 1000; i < n; ++i) ASSERT_LT(noise[size_t(i - 1)], noise[size_t(i)]);
  int beyond = 0;
  for (float g : noise) beyond += g > 9.0f;  // about n exp(-9) = 129
  EXPECT_NEAR(beyond, n * -std::expm1(-std::exp(-9.0)), 5 * std::sqrt(n * std::exp(-9.0)));
}

TEST(GumbelArgmax, IsTheArgmaxOfLogitsPlusNoise) {
  Trial trial(10);
  for (int n : {1, 7, 16, 63, 64, 65, 1000, 5000}) {
    const auto x = trial.normals(n, 2.0f);
    for (uint32_t position = 0; position < 20; ++position) {
      const DrawKey key{.seed = 4, .position = position};
      std::vector<float> noise(x.size());
      kernels().gumbel(key, nullptr, n, noise.data());
      size_t best = 0;
      std::vector<float> total(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        total[i] = x[i] * 0.8f;
        total[i] += noise[i];
        if (total[i] > total[best]) best = i;
      }
      ASSERT_EQ(kernels().gumbel_argmax(x.data(), n, 0.8f, key), int(best));
    }
  }
}

TEST(GumbelArgmax, MaskedAndBrokenLogitsNeverWin) {
  for (Isa isa : available_isas()) {
    const Kernels& k = kernels(isa);
    std::vector<float> x(1000, -kInf);
    x[77] = -1e30f;
    x[500] = std::nanf("");
    for (uint32_t position = 0; position < 50; ++position) {
      ASSERT_EQ(k.gumbel_argmax(x.data(), 1000, 1.0f, {.seed = 1, .position = position}), 77);
    }
    x[77] = -kInf;
    x[0] = std::nanf("");
    EXPECT_EQ(k.gumbel_argmax(x.data(), 1000, 1.0f, {.seed = 1}), 1);
    EXPECT_EQ(k.gumbel_argmax(x.data(), 1, 1.0f, {.seed = 1}), -1);
    EXPECT_EQ(k.gumbel_argmax(x.data(), 0, 1.0f, {.seed = 1}), -1);
  }
}

TEST(GumbelArgmax, ChiSquareAgainstSoftmax) {
  Trial trial(11);
  for (float temperature : {1.0f, 0.6f}) {
    const int n = 37, draws = 100000;
    const auto x = trial.normals(n, 1.2f);
    std::vector<double> p(x.size());
    double total = 0;
    for (size_t i = 0; i < x.size(); ++i) total += p[i] = std::exp(double(x[i]) / temperature);
    std::vector<int> seen(x.size());
    for (uint32_t i = 0; i < draws; ++i) {
      const DrawKey key{.seed = 12, .position = i};
      ++seen[size_t(kernels().gumbel_argmax(x.data(), n, 1 / temperature, key))];
    }
    double chi = 0;
    int cells = 0;
    double rest_expected = 0;
    int rest_seen = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = p[i] / total * draws;
      if (expected < 5) {  // cells too small for the approximation are pooled
        rest_expected += expected;
        rest_seen += seen[i];
        continue;
      }
      chi += (seen[i] - expected) * (seen[i] - expected) / expected;
      ++cells;
    }
    if (rest_expected > 0) {
      chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
      ++cells;
    }
    // mean and variance of chi-square: k and 2k; 4.5 standard deviations
    EXPECT_LT(chi, (cells - 1) + 4.5 * std::sqrt(2.0 * (cells - 1)));
  }
}

}  // namespace
}  // namespace tutti::tensor
