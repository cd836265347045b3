// Rejection: the law of what is written, over all texts of four tokens, against the law that the
// model's logits give.
#include "decode/speculative/reject.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "decode/speculative/lossless.h"
#include "decode/speculative/served_draft.h"

namespace tutti::decode {
namespace {

using speculative::ServedDraft;
using Ids = std::vector<int32_t>;
using Options = std::map<std::string, std::string>;

// Of which the prompt's forward gives one, so that two drafts are tested together.
constexpr int kLength = 4;
const Ids kAllowed{40, 41, 45, 52};  // the texts are made of these tokens
constexpr int kTexts = 256;
constexpr int kSamples = 1000, kRounds = 8;

int index_of(const Ids& text) {
  int index = 0;
  for (const int32_t token : text) {
    index = index * int(kAllowed.size()) +
            int(std::find(kAllowed.begin(), kAllowed.end(), token) - kAllowed.begin());
  }
  return index;
}

// The probability of every text by a softmax over the allowed tokens' logits, token by token.
std::vector<double> enumerate(TinyWorld& world, const Ids& prompt, double temperature) {
  std::vector<double> law(kTexts);
  const std::function<void(Ids&, double)> walk = [&](Ids& text, double p) {
    if (int(text.size()) == kLength) {
      law[size_t(index_of(text))] = p;
      return;
    }
    Ids all = prompt;
    all.insert(all.end(), text.begin(), text.end());
    const std::vector<float> logits = world.logits_after(all);
    double sum = 0;
    for (const int32_t id : kAllowed) sum += std::exp(double(logits[size_t(id)]) / temperature);
    for (const int32_t id : kAllowed) {
      text.push_back(id);
      walk(text, p * std::exp(double(logits[size_t(id)]) / temperature) / sum);
      text.pop_back();
    }
  };
  Ids text;
  walk(text, 1);
  return law;
}

double total_variation(const std::vector<double>& p, const std::vector<double>& counts) {
  const double n = std::accumulate(counts.begin(), counts.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::fabs(p[i] - counts[i] / n);
  return sum / 2;
}

// What the distance of n draws from their own law is, by drawing them: mean + 3 sigma.
double limit(const std::vector<double>& p, int n) {
  Draws draws(99);
  double sum = 0, squares = 0;
  constexpr int kTrials = 100;
  std::vector<double> cdf(p.size());
  std::partial_sum(p.begin(), p.end(), cdf.begin());
  for (int t = 0; t < kTrials; ++t) {
    std::vector<double> counts(p.size());
    for (int i = 0; i < n; ++i) {
      const double u = double(draws.word()) * 0x1p-32 * cdf.back();
      ++counts[size_t(std::upper_bound(cdf.begin(), cdf.end() - 1, u) - cdf.begin())];
    }
    const double tv = total_variation(p, counts);
    sum += tv;
    squares += tv * tv;
  }
  const double mean = sum / kTrials;
  return mean + 3 * std::sqrt(std::max(squares / kTrials - mean * mean, 0.0));
}

class Rejection : public testing::Test {
 protected:
  std::vector<double> sample(const std::string& method, const Options& options,
                             const ServedDraft* draft) {
    std::vector<double> counts(kTexts);
    auto allowed = std::make_shared<std::vector<uint64_t>>(2, 0);
    for (const int32_t id : kAllowed) (*allowed)[size_t(id / 64)] |= uint64_t(1) << (id % 64);
    for (int round = 0; round < kRounds; ++round) {
      GenerationOptions o;
      o.method = method;
      o.method_options = options;
      o.method_options["adaptive"] = "0";
      if (draft) o.draft_model = draft->model();
      o.sampling.temperature = float(kTemperature);
      o.sampling.allowed = allowed;
      o.max_tokens = kLength;
      o.n = kSamples;
      o.seed = uint64_t(round) + 1;
      const Outcome out = world_.run(prompt_, o);
      for (const Completion& c : out.completions) {
        ++counts[size_t(index_of(c.ids))];
        accepted_ += c.statistics.accepted;
        rejected_ += c.statistics.proposed - c.statistics.accepted;
      }
    }
    return counts;
  }

  void expect_law(const std::string& method, const Options& options,
                  const ServedDraft* draft = nullptr) {
    accepted_ = rejected_ = 0;
    const double tv = total_variation(law_, sample(method, options, draft));
    EXPECT_LT(tv, limit_) << method;
    EXPECT_GT(accepted_, 500u) << method;  // both ways of the test were gone
    EXPECT_GT(rejected_, 500u) << method;
  }

  static constexpr double kTemperature = 0.7;
  static engine::EngineOptions many_pages() {
    engine::EngineOptions options;
    options.pages = 4096;
    return options;
  }
  TinyWorld world_{many_pages()};
  Ids prompt_ = [] {
    // Ends with a repetition, so that lookup drafts.
    Ids prompt = tiny_prompt(3, 9);
    for (const int32_t t : {52, 40, 45, 41, 52}) prompt.push_back(t);
    return prompt;
  }();
  std::vector<double> law_ = enumerate(world_, prompt_, kTemperature);
  double limit_ = limit(law_, kSamples* kRounds);
  uint64_t accepted_ = 0, rejected_ = 0;
};

TEST_F(Rejection, ChainsAndTreesHaveTheLawOfTheModel) {
  ServedDraft close(tensor::Type::kQ4_0, "qwen3", 4096), other(tensor::Type::kF32, "llama", 4096);
  const Options chain{{"verify", "rejection"}, {"draft_max", "2"}};
  const Options tree{{"verify", "rejection"}, {"draft_max", "2"}, {"branches", "3"}};
  expect_law("draft", chain, &other);
  expect_law("draft", tree, &other);
  expect_law("draft", tree, &close);
  expect_law("early-exit", tree);
}

TEST_F(Rejection, ProposedTokensHaveTheLawOfTheModel) {
  expect_law("lookup", {{"verify", "rejection"}, {"draft_max", "2"}});
}

// The test can tell: the law of another model lies far outside, and so does taking every draft that
// comes.
TEST_F(Rejection, TheTestSeesAWrongLaw) {
  TinyWorld other(many_pages(), "llama");
  const std::vector<double> wrong = enumerate(other, prompt_, kTemperature);
  EXPECT_GT(total_variation(law_, wrong), 3 * limit_);
  // The right law of a slightly other temperature lies outside, too.
  EXPECT_GT(total_variation(law_, enumerate(world_, prompt_, kTemperature * 1.3)), limit_);
}

TEST_F(Rejection, RefusesWhatWouldChangeTheLaw) {
  const auto refused = [&](const std::string& method, const Options& options, int logprobs = -1) {
    GenerationOptions o;
    o.method = method;
    o.method_options = options;
    o.method_options["verify"] = "rejection";
    o.sampling.temperature = 1;
    o.sampling.logprobs = logprobs;
    o.max_tokens = 4;
    try {
      world_.run(prompt_, o);
    } catch (const Error& e) {
      return e.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  EXPECT_TRUE(refused("lookup", {{"branches", "2"}}));
  EXPECT_TRUE(refused("lookup", {}, 0));
  EXPECT_TRUE(refused("early-exit", {{"draft_min", "1"}}));
  EXPECT_TRUE(refused("early-exit", {{"draft_p_min", "0.5"}}));
  EXPECT_TRUE(refused("early-exit", {{"draft_noise", "none"}}));
  EXPECT_FALSE(refused("early-exit", {}));
  EXPECT_FALSE(refused("lookup", {}));
}

}  // namespace
}  // namespace tutti::decode
