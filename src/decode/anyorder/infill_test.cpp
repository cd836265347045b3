// Any-order decoding: the accelerated forms write the sequential form's tokens, or have its law,
// with no more forwards than tokens; drafting in parallel without verifying does not.
#include "decode/anyorder/infill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/draws.h"
#include "base/error.h"
#include "engine/goodness_of_fit.h"
#include "engine/test_programs.h"
#include "models/crafted_xlnet.h"
#include "models/model.h"

namespace tutti::decode::anyorder {
namespace {

using engine::Engine;
using engine::Request;

struct World {
  explicit World(const models::XlnetShape& shape, int threads = 1)
      : pool(std::make_shared<ComputePool>(threads)),
        checkpoint(models::xlnet_checkpoint(shape)),
        model(std::make_shared<models::Model>(checkpoint, tensor::Arithmetic::kExactQ8, *pool)),
        engine(model, pool, engine::small_engine(512)) {}

  // All tasks side by side.
  std::vector<Infilled> fill(const std::vector<std::pair<InfillTask, InfillOptions>>& jobs) {
    std::vector<Infilled> out(jobs.size());
    std::vector<engine::TestProgram> programs;
    for (size_t i = 0; i < jobs.size(); ++i) {
      programs.push_back([this, &jobs, &out, i](std::shared_ptr<Request> request) -> Task<void> {
        out[i] = co_await infill(engine, request, jobs[i].first, jobs[i].second);
      });
    }
    engine::run_programs(engine, programs);
    return out;
  }
  Infilled fill(const InfillTask& task, const InfillOptions& options) {
    return fill({{task, options}}).front();
  }
  Score score_of(const InfillTask& task) {
    Score out;
    engine::run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                           out = co_await score(engine, request, task);
                         }});
    return out;
  }

  std::shared_ptr<ComputePool> pool;
  std::shared_ptr<const models::Checkpoint> checkpoint;
  std::shared_ptr<const models::Model> model;
  Engine engine;
};

models::XlnetShape small_shape() {
  models::XlnetShape shape;
  shape.vocab = 24;
  return shape;
}

// n positions, each given with that chance; the order is the lattice's for an even seed, else
// random.
InfillTask random_task(uint64_t seed, int n, double given, int vocab) {
  Draws draws(seed);
  InfillTask task;
  for (int i = 0; i < n; ++i) {
    const int32_t token = draws.below(vocab);
    const bool blank = token == 6 || !draws.chance(given);  // 6 is the mask token
    task.tokens.push_back(blank ? kBlank : token);
  }
  task.order = seed % 2 == 0 ? lattice_order(task.tokens) : random_order(task.tokens, seed);
  return task;
}

InfillOptions options_of(Fill fill, uint64_t seed, float temperature = 1) {
  InfillOptions o;
  o.fill = fill;
  o.seed = seed;
  o.sampling.temperature = temperature;
  return o;
}

TEST(Orders, NameEveryBlankOnce) {
  const std::vector<int32_t> tokens{kBlank, 3, kBlank, kBlank, 1, kBlank};
  EXPECT_EQ(lattice_order(tokens), (std::vector<int>{0, 2, 3, 5}));
  EXPECT_EQ(reversed_order(tokens), (std::vector<int>{5, 3, 2, 0}));
  std::set<std::vector<int>> seen;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    std::vector<int> order = random_order(tokens, seed);
    EXPECT_EQ(order, random_order(tokens, seed));
    seen.insert(order);
    std::ranges::sort(order);
    EXPECT_EQ(order, lattice_order(tokens));
  }
  EXPECT_EQ(seen.size(), 24u);
}

// The theorem: from a width of two, no more forwards than blanks. Matching gives the sequential
// tokens themselves.
TEST(Assd, MatchingWritesTheSequentialTokens) {
  World world(small_shape()), pair(small_shape(), 2);
  int saved = 0, accepted = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const InfillTask task = random_task(seed, 3 + int(seed) % 40, 0.1 * double(seed % 9), 24);
    const float temperature = seed % 5 == 0 ? 0.0f : 0.4f + 0.3f * float(seed % 4);
    const Infilled plain = world.fill(task, options_of(Fill::kSequential, seed, temperature));
    EXPECT_EQ(plain.forwards, task.order.size());
    InfillOptions o = options_of(Fill::kAssd, seed, temperature);
    for (const int width : {1, 2, 3, 5, 60}) {
      o.width = width;
      o.bonus = seed % 3 == 1;
      o.draft = DraftBy::kModel;
      const Infilled fast = (seed % 20 == 7 && width == 3 ? pair : world).fill(task, o);
      EXPECT_EQ(fast.tokens, plain.tokens) << seed << " " << width;
      EXPECT_LE(fast.forwards, task.order.size()) << seed << " " << width;
      ASSERT_EQ(fast.filled.size(), plain.filled.size());
      for (size_t i = 0; i < fast.filled.size(); ++i) {
        EXPECT_EQ(fast.filled[i].log_probability, plain.filled[i].log_probability);
      }
      saved += int(plain.forwards) - int(fast.forwards);
      accepted += int(fast.accepted);
      o.draft = DraftBy::kNgram;
      const Infilled counted = world.fill(task, o);
      EXPECT_EQ(counted.tokens, plain.tokens) << seed << " " << width;
      EXPECT_LE(counted.forwards, task.order.size());
    }
  }
  EXPECT_GT(saved, 60);
  EXPECT_GT(accepted, 200);
}

TEST(Assd, TheCacheDoesNotMatter) {
  World world(small_shape());
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const InfillTask task = random_task(seed, 45, 0.3, 24);
    for (const Fill fill : {Fill::kSequential, Fill::kAssd, Fill::kParallel}) {
      for (const Accept accept : {Accept::kMatch, Accept::kReject}) {
        if (fill != Fill::kAssd && accept == Accept::kReject) continue;
        InfillOptions o = options_of(fill, seed);
        o.accept = accept;
        const Infilled cached = world.fill(task, o);
        o.cached = false;
        const Infilled anew = world.fill(task, o);
        EXPECT_EQ(cached.tokens, anew.tokens);
        EXPECT_EQ(cached.forwards, anew.forwards);
        EXPECT_EQ(cached.log_probability, anew.log_probability);
      }
    }
  }
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
}

TEST(Assd, NeighboursDoNotMatter) {
  World world(small_shape());
  std::vector<std::pair<InfillTask, InfillOptions>> jobs;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    InfillOptions o = options_of(seed % 3 == 0 ? Fill::kSequential : Fill::kAssd, seed);
    if (seed % 3 == 2) o.accept = Accept::kReject;
    jobs.emplace_back(random_task(seed, 10 + int(seed), 0.3, 24), o);
  }
  const std::vector<Infilled> together = world.fill(jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Infilled alone = world.fill(jobs[i].first, jobs[i].second);
    EXPECT_EQ(alone.tokens, together[i].tokens);
    EXPECT_EQ(alone.log_probability, together[i].log_probability);
  }
}

// The chain rule, one token a forward and all in one.
TEST(Score, IsWhatFillingSays) {
  World world(small_shape());
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const InfillTask task = random_task(seed, 30, 0.2, 24);
    const Infilled filled = world.fill(task, options_of(Fill::kAssd, seed));
    const Score scored = world.score_of({filled.tokens, task.order});
    EXPECT_NEAR(scored.log_probability, filled.log_probability, 1e-5 * double(task.order.size()));
    ASSERT_EQ(scored.filled.size(), filled.filled.size());
    for (size_t i = 0; i < scored.filled.size(); ++i) {
      EXPECT_EQ(scored.filled[i].position, filled.filled[i].position);
      EXPECT_NEAR(scored.filled[i].log_probability, filled.filled[i].log_probability, 1e-6);
    }
  }
}

// Six tokens, of which the last is the mask; four blanks around one given token: 625 texts.
constexpr int kLetters = 5, kBlanks = 4, kTexts = 625;

models::XlnetShape tiny_shape() {
  models::XlnetShape shape;
  shape.vocab = kLetters + 1;
  shape.hidden = 32;
  shape.heads = 2;
  shape.inner = 32;
  shape.context = 16;
  shape.spread = 1.0f;
  shape.seed = 5;  // of the seeds 1 to 6 the one whose blanks depend on each other most
  return shape;
}

InfillTask tiny_task(bool lattice) {
  InfillTask task;
  task.tokens = {kBlank, kBlank, 2, kBlank, kBlank};
  task.order = lattice ? lattice_order(task.tokens) : std::vector<int>{3, 0, 4, 1};
  return task;
}

int text_number(const InfillTask& task, const std::vector<int32_t>& tokens) {
  int number = 0;
  for (const int p : lattice_order(task.tokens)) number = number * kLetters + tokens[size_t(p)];
  return number;
}

// The probability of every text by the chain rule, at a temperature.
std::vector<double> exact_law(World& world, const InfillTask& task, double temperature) {
  std::vector<double> law(kTexts, 0.0);
  std::vector<InfillTask> texts;
  for (int number = 0; number < kTexts; ++number) {
    InfillTask text = task;
    int rest = number;
    for (const int p : reversed_order(task.tokens)) {
      text.tokens[size_t(p)] = rest % kLetters;
      rest /= kLetters;
    }
    texts.push_back(std::move(text));
  }
  std::vector<engine::TestProgram> programs;
  for (size_t i = 0; i < texts.size(); ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      const Score s = co_await score(world.engine, request, texts[i], true);
      double log_p = 0;
      for (size_t r = 0; r < s.logits.size(); ++r) {
        double sum = 0;
        for (int v = 0; v < kLetters; ++v)
          sum += std::exp(double(s.logits[r][size_t(v)]) / temperature);
        log_p += double(s.logits[r][size_t(s.filled[r].token)]) / temperature - std::log(sum);
      }
      law[i] = std::exp(log_p);
      if (temperature == 1) EXPECT_NEAR(s.log_probability, log_p, 1e-5);
    });
  }
  engine::run_programs(world.engine, programs);
  return law;
}

struct Sample {
  std::vector<int64_t> counts = std::vector<int64_t>(kTexts, 0);
  double distance(const std::vector<double>& law) const {  // total variation
    const double n = double(std::accumulate(counts.begin(), counts.end(), int64_t(0)));
    double sum = 0;
    for (size_t i = 0; i < law.size(); ++i) sum += std::abs(double(counts[i]) / n - law[i]);
    return sum / 2;
  }
};

Sample sample(World& world, const InfillTask& task, InfillOptions options, int draws) {
  Sample s;
  for (int first = 0; first < draws; first += 1000) {
    std::vector<std::pair<InfillTask, InfillOptions>> jobs;
    for (int i = first; i < std::min(first + 1000, draws); ++i) {
      options.seed = 77 + uint64_t(i);
      jobs.emplace_back(task, options);
    }
    for (const Infilled& one : world.fill(jobs)) {
      ++s.counts[size_t(text_number(task, one.tokens))];
      EXPECT_LE(one.forwards, uint64_t(kBlanks));
    }
  }
  return s;
}

TEST(Law, EveryOrderIsADistribution) {
  World world(tiny_shape());
  for (const bool lattice : {true, false}) {
    const std::vector<double> law = exact_law(world, tiny_task(lattice), 1);
    EXPECT_NEAR(std::accumulate(law.begin(), law.end(), 0.0), 1.0, 1e-5);
  }
}

TEST(Law, AssdHasTheSequentialLawAndParallelDraftingHasNot) {
  World world(tiny_shape());
  constexpr int kDraws = 2000;
  for (const bool lattice : {true, false}) {
    const float temperature = lattice ? 1.0f : 2.0f;
    const InfillTask task = tiny_task(lattice);
    const std::vector<double> law = exact_law(world, task, double(temperature));
    const auto fit = [&](const InfillOptions& o) {
      return engine::goodness_of_fit(sample(world, task, o, kDraws).counts, law);
    };
    InfillOptions o = options_of(Fill::kSequential, 0, temperature);
    const Sample plain = sample(world, task, o, kDraws);
    EXPECT_GT(engine::goodness_of_fit(plain.counts, law), engine::kFalseAlarm);
    o.fill = Fill::kAssd;
    o.accept = Accept::kReject;
    for (const int width : {2, 4}) {
      o.width = width;
      EXPECT_GT(fit(o), engine::kFalseAlarm) << lattice << " " << width;
    }
    o.draft_temperature = 3.0f;
    EXPECT_GT(fit(o), engine::kFalseAlarm) << lattice;
    o.draft_temperature = -1;
    o.width = 2;
    o.bonus = true;
    EXPECT_GT(fit(o), engine::kFalseAlarm) << lattice;
    o.draft = DraftBy::kNgram;
    EXPECT_GT(fit(o), engine::kFalseAlarm) << lattice;
    // What must be seen to fail: slack, and drafts that nobody verifies.
    o = options_of(Fill::kAssd, 0, temperature);
    o.accept = Accept::kReject;
    o.slack = 0.5;
    EXPECT_LT(fit(o), engine::kFalseAlarm) << lattice;
    InfillOptions parallel = options_of(Fill::kParallel, 0, temperature);
    parallel.width = kBlanks;
    const Sample naive = sample(world, task, parallel, kDraws);
    EXPECT_LT(engine::goodness_of_fit(naive.counts, law), engine::kFalseAlarm) << lattice;
    EXPECT_GT(naive.distance(law), plain.distance(law) + 0.1) << lattice;
  }
}

TEST(Infill, WhatMakesNoSenseIsRefused) {
  World world(small_shape());
  const auto message = [&](const InfillTask& task, const InfillOptions& o) -> std::string {
    try {
      world.fill(task, o);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const InfillOptions plain = options_of(Fill::kSequential, 1);
  const auto has = [&](const InfillTask& task, const InfillOptions& o, const std::string& part) {
    EXPECT_NE(message(task, o).find(part), std::string::npos) << part << ": " << message(task, o);
  };
  has({{1, kBlank}, {0}}, plain, "names position 0, which is given");
  has({{1, kBlank}, {1, 1}}, plain, "twice");
  has({{1, kBlank}, {}}, plain, "leaves out the blank at position 1");
  has({{1, kBlank}, {2}}, plain, "names position 2 of 2");
  has({{6, kBlank}, {1}}, plain, "holds the mask token");
  has({{24, kBlank}, {1}}, plain, "not in the vocabulary of 24");
  has({std::vector<int32_t>(129, 1), {}}, plain, "does not fit the context of 128");
  InfillOptions o = plain;
  o.bonus = true;
  has({{1, kBlank}, {1}}, o, "options of assd");
  o = options_of(Fill::kAssd, 1);
  o.width = 0;
  has({{1, kBlank}, {1}}, o, "width 0");
  o = options_of(Fill::kAssd, 1);
  o.slack = 0.1;
  has({{1, kBlank}, {1}}, o, "slack is an option");
  o = plain;
  o.sampling.repetition_penalty = 1.2f;
  has({{1, kBlank}, {1}}, o, "penalties");
}

}  // namespace
}  // namespace tutti::decode::anyorder
