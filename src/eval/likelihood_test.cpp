// Against the definition of the any-order likelihood, from logits of whole windows, computed in
// double: the mean over all L! orders of what writing the tokens one by one costs.
#include "eval/likelihood.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "engine/tiny_model.h"
#include "eval/perplexity.h"

namespace tutti::eval {
namespace {

struct Masked {
  explicit Masked(const std::string& architecture)
      : tiny(engine::tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1, 0,
                                architecture)),
        engine(tiny.model, tiny.pool, options()) {}
  static engine::EngineOptions options() {
    engine::EngineOptions o;
    o.kv = tensor::KvType::kF32;
    o.pages = 64;
    return o;
  }
  const models::Config& config() const { return tiny.model->config(); }

  engine::TinyModel tiny;
  engine::Engine engine;
};

// Costs of writing a text's answer token by token, by definition. Each state is computed once.
class ByDefinition {
 public:
  ByDefinition(engine::Engine& engine, const MaskedText& text)
      : engine_(engine), clean_(text.prompt) {
    clean_.insert(clean_.end(), text.answer.begin(), text.answer.end());
  }

  // Mean over all orders of positions [first, end) of the sum of costs; later positions are not
  // there yet.
  double any_order(int first, int end) {
    std::vector<int> order(size_t(end - first));
    std::iota(order.begin(), order.end(), first);
    double sum = 0;
    int orders = 0;
    do {
      std::vector<int> open(order);
      for (const int p : order) {
        sum += cost(open, end, p);
        open.erase(open.begin());
      }
      ++orders;
    } while (std::ranges::next_permutation(order).found);
    return sum / orders;
  }

  // -log of the probability of token `p` with the positions `open` masked.
  double cost(std::vector<int> open, int end, int p) {
    std::ranges::sort(open);
    auto& costs = states_[{end, open}];
    if (costs.empty()) {
      const models::Config& config = engine_.model().config();
      std::vector<int32_t> tokens(clean_.begin(), clean_.begin() + end);
      for (const int o : open) tokens[size_t(o)] = config.mask_token;
      std::vector<std::vector<float>> logits;
      window_logits(engine_, tokens, [&](int, std::span<const float> row) {
        logits.emplace_back(row.begin(), row.end());
      });
      for (const int o : open) {
        const auto& row = logits[size_t(o - (config.shifted_logits ? 1 : 0))];
        double sum = 0;
        for (const float x : row) sum += std::exp(double(x));
        costs[o] = std::log(sum) - double(row[size_t(clean_[size_t(o)])]);
      }
    }
    return costs.at(p);
  }

 private:
  engine::Engine& engine_;
  std::vector<int32_t> clean_;
  std::map<std::pair<int, std::vector<int>>, std::map<int, double>> states_;
};

// Blocks of four: the prompt ends inside one, the answer lies in two.
const MaskedText kText{{7, 50, 12}, {3, 81, 44, 20, 9}};

double definition(Masked& m, ByDefinition& d) {
  if (m.config().attention != models::AttentionKind::kBlockCausal) return d.any_order(3, 8);
  EXPECT_EQ(m.config().attention_block, 4);
  return d.any_order(3, 4) + d.any_order(4, 8);
}

class OfFamily : public testing::TestWithParam<const char*> {};

TEST_P(OfFamily, EveryMaskGivesTheMeanOverOrders) {
  Masked m(GetParam());
  ByDefinition d(m.engine, kText);
  const double expected = definition(m, d);
  LikelihoodOptions o;
  o.exact = true;
  for (const int strata : {1, 5, 64}) {
    o.strata = strata;
    const Likelihood got = likelihood(m.engine, std::vector{kText}, o);
    EXPECT_NEAR(got.nll(), expected, 1e-5 * expected);
    EXPECT_EQ(got.standard_error(), 0);
    EXPECT_EQ(got.tokens(), 5);
  }
  EXPECT_GT(expected, 5);  // the tokens are far from certain
}

TEST_P(OfFamily, SamplesConvergeToIt) {
  Masked m(GetParam());
  ByDefinition d(m.engine, kText);
  const double expected = definition(m, d);
  LikelihoodOptions o;
  o.ratio_masks = 0;
  double previous = 0;
  for (const int samples : {64, 4096}) {
    o.samples = samples;
    const Likelihood got = likelihood(m.engine, std::vector{kText}, o);
    EXPECT_NEAR(got.nll(), expected, 4 * got.standard_error()) << samples;
    EXPECT_GT(got.standard_error(), 0);
    if (samples == 4096) {
      EXPECT_NEAR(previous / got.standard_error(), 8, 4);  // the root of 64 times as many
      EXPECT_LT(got.standard_error(), 0.02 * expected);
      // The same masks again, whatever the model did in between.
      EXPECT_EQ(likelihood(m.engine, std::vector{kText}, o).nll(), got.nll());
      o.seed = 2;
      EXPECT_NE(likelihood(m.engine, std::vector{kText}, o).nll(), got.nll());
    }
    previous = got.standard_error();
  }
}

TEST_P(OfFamily, LossByRatioIsTheMeanOverIndependentMasks) {
  Masked m(GetParam());
  ByDefinition d(m.engine, kText);
  LikelihoodOptions o;
  o.exact = true;
  o.ratio_masks = 3000;
  o.strata = 64;
  const Likelihood got = likelihood(m.engine, std::vector{kText}, o);
  ASSERT_EQ(got.ratios.size(), 10u);
  const bool blocks = m.config().attention == models::AttentionKind::kBlockCausal;
  const std::vector<std::pair<int, int>> pieces =
      blocks ? std::vector<std::pair<int, int>>{{3, 4}, {4, 8}}
             : std::vector<std::pair<int, int>>{{3, 8}};
  for (const auto& t : got.ratios) {
    // The expected loss and number of masked tokens, over all masks.
    double loss = 0, masked = 0;
    for (const auto& [first, end] : pieces) {
      for (int bits = 1; bits < 1 << (end - first); ++bits) {
        std::vector<int> open;
        for (int i = 0; i < end - first; ++i) {
          if (bits >> i & 1) open.push_back(first + i);
        }
        const int k = int(open.size());
        const double p = std::pow(t.ratio, k) * std::pow(1 - t.ratio, end - first - k);
        for (const int position : open) loss += p * d.cost(open, end, position);
        masked += p * k;
      }
    }
    const bool all = t.ratio == 1;
    EXPECT_NEAR(t.per_token(), loss / masked, (all ? 1e-5 : 0.04) * loss / masked) << t.ratio;
    EXPECT_NEAR(double(t.masked) / 3000, masked, all ? 0 : 0.1) << t.ratio;
  }
}

INSTANTIATE_TEST_SUITE_P(Likelihood, OfFamily, testing::Values("llada", "dream", "sdar"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Likelihood, RoundsCoverTheNumbersEvenly) {
  EXPECT_EQ(stratified_counts(3, 8, 8), (std::vector{3, 4, 5, 6, 7, 8, 1, 2}));
  EXPECT_EQ(stratified_counts(1, 100, 4), (std::vector{1, 26, 51, 76}));
  EXPECT_EQ(stratified_counts(90, 100, 4), (std::vector{90, 15, 40, 65}));
  // Each place of a round is uniform over 1 … length when the first number is.
  for (const int length : {1, 5, 17}) {
    for (int place = 0; place < 16; ++place) {
      std::vector<int> seen(size_t(length) + 1);
      for (int first = 1; first <= length; ++first)
        ++seen[size_t(stratified_counts(first, length, 16)[size_t(place)])];
      for (int k = 1; k <= length; ++k) EXPECT_EQ(seen[size_t(k)], 1);
    }
  }
}

std::string refused(engine::Engine& engine, const MaskedText& text,
                    const LikelihoodOptions& o = {}) {
  try {
    likelihood(engine, std::vector{text}, o);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// By the logits of the whole text, each row's own softmax.
TEST(Likelihood, OfACausalModelIsThatOfReading) {
  Masked m("qwen3");
  std::vector<int32_t> tokens = kText.prompt;
  tokens.insert(tokens.end(), kText.answer.begin(), kText.answer.end());
  double expected = 0;
  window_logits(m.engine, tokens, [&](int row, std::span<const float> logits) {
    const size_t next = size_t(row) + 1;
    if (next < kText.prompt.size() || next >= tokens.size()) return;
    double sum = 0;
    for (const float x : logits) sum += std::exp(double(x));
    expected += std::log(sum) - double(logits[size_t(tokens[next])]);
  });
  const Likelihood got = likelihood(m.engine, std::vector{kText, kText}, {});
  ASSERT_EQ(got.answers.size(), 2u);
  EXPECT_NEAR(got.answers[1].nll, expected, 1e-5 * expected);
  EXPECT_EQ(got.standard_error(), 0);
  EXPECT_EQ(got.tokens(), 10);
  EXPECT_TRUE(got.ratios.empty());
}

TEST(Likelihood, WhatCannotBeIsRefused) {
  Masked causal("qwen3"), llada("llada"), dream("dream");
  MaskedText bare = kText;
  bare.prompt.clear();
  EXPECT_NE(refused(causal.engine, bare).find("has no prompt"), std::string::npos);
  EXPECT_NE(refused(llada.engine, {{1}, {}}).find("text 1 has an answer without tokens"),
            std::string::npos);
  EXPECT_NE(refused(dream.engine, {{}, {4}}).find("has no prompt"), std::string::npos);
  EXPECT_EQ(refused(llada.engine, {{}, {4}}), "");
  LikelihoodOptions odd;
  odd.samples = 40;
  EXPECT_NE(refused(llada.engine, kText, odd).find("rounds of 16"), std::string::npos);
  LikelihoodOptions exact;
  exact.exact = true;
  EXPECT_NE(refused(llada.engine, {{}, std::vector<int32_t>(17, 5)}, exact).find("at most 16"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::eval
