// The methods in the engine, on tiny random models of the three kinds (full attention; full with
// shifted logits; blocks of attention), against loops written out here over the engine's full
// logits of the whole sequence.
#include "decode/diffusion/diffusion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <thread>

#include "base/draws.h"
#include "base/error.h"
#include "decode/draft_counts.h"
#include "decode/tiny_text.h"

namespace tutti::decode {
namespace {

using Ids = std::vector<int32_t>;
constexpr int32_t kMask = kTinyVocab - 1;
constexpr int kAttentionBlock = 4;  // of the tiny sdar

struct MaskedWorld : TinyWorld {
  explicit MaskedWorld(const std::string& architecture, engine::EngineOptions options = {})
      : TinyWorld(options, architecture) {}
  bool blocks() const {
    return tiny.model->config().attention == models::AttentionKind::kBlockCausal;
  }
  bool shifted() const { return tiny.model->config().shifted_logits; }

  // logits[i] of every row of a sequence, computed whole: row i sees all, or its block and those
  // before.
  std::vector<std::vector<float>> logits_of(const Ids& tokens) {
    std::vector<std::vector<float>> out;
    std::exception_ptr error;
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&]() -> Task<void> {
          engine::Context context(engine, request);
          engine::Rows rows;
          for (int i = 0; i < int(tokens.size()); ++i) {
            const int end =
                blocks() ? (i / kAttentionBlock + 1) * kAttentionBlock : int(tokens.size());
            engine::Row row(tokens[size_t(i)], i);
            row.view =
                rows.add_view({engine::Segment::fresh(0, std::min(end, int(tokens.size())))});
            row.write = engine::Write::none();
            row.want.emplace();
            row.want->logits = true;
            rows.rows.push_back(std::move(row));
          }
          engine::Answer answer = co_await engine.forward(context, std::move(rows));
          for (auto& row : answer.rows) out.push_back(std::move(row.logits));
        },
        [&](std::exception_ptr e) { error = e; });
    engine.run();
    if (error) std::rethrow_exception(error);
    return out;
  }
};

GenerationOptions options_of(const std::string& method, int tokens,
                             std::map<std::string, std::string> method_options) {
  GenerationOptions o;
  o.method = method;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  o.method_options = std::move(method_options);
  return o;
}

// The reference sampler of sheet 00, in double: block after block, the n_j best of each step.
struct Reference {
  int block, steps = 0;  // 0: one position a step
  double threshold = 2;  // also all of at least this
  double temperature = 0;
  uint64_t seed = 0;
  int forwards = 0;

  Ids run(MaskedWorld& world, const Ids& prompt, int answer) {
    forwards = 0;
    Ids x = prompt;
    const int first = world.blocks() ? int(prompt.size()) / kAttentionBlock * kAttentionBlock
                                     : int(prompt.size());
    int size = int(prompt.size()) + answer;
    if (world.blocks()) size = (size + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
    std::vector<bool> open(size_t(size), false);
    for (int p = int(prompt.size()); p < size; ++p) open[size_t(p)] = true;
    x.resize(size_t(size), kMask);
    const int blocks = (size - first + block - 1) / block;
    for (int begin = first; begin < size; begin += block) {
      const int end = std::min(begin + block, size);
      const auto left = [&] {
        return int(std::count(open.begin() + begin, open.begin() + end, true));
      };
      const int m = left(), s = steps > 0 ? steps / blocks : m;
      for (int j = 0; left() > 0; ++j) {
        const auto logits = world.logits_of(x);
        ++forwards;
        struct Guess {
          double confidence;
          int position;
          int32_t token;
        };
        std::vector<Guess> guesses;
        for (int p = begin; p < end; ++p) {
          if (!open[size_t(p)]) continue;
          const auto& l = logits[size_t(p - (world.shifted() ? 1 : 0))];
          double sum = 0;
          for (const float v : l) sum += std::exp(double(v));
          int32_t best = -1;
          double height = -1e300;
          DrawKey key;
          key.seed = seed;
          key.position = uint32_t(p);
          for (int32_t v = 0; v < kTinyVocab; ++v) {
            if (v == kMask) continue;
            double h = double(l[size_t(v)]);
            if (temperature > 0) {
              const double u = (double(draw_word(key, uint32_t(v))) + 0.5) * 0x1p-32;
              h = h / temperature - std::log(-std::log1p(-u));
            }
            if (h > height) {
              height = h;
              best = v;
            }
          }
          guesses.push_back({std::exp(double(l[size_t(best)])) / sum, p, best});
        }
        std::stable_sort(guesses.begin(), guesses.end(), [](const Guess& a, const Guess& b) {
          return a.confidence > b.confidence;
        });
        const int n = s > 0 ? std::max(1, m / s + (j < m % s ? 1 : 0)) : 1;
        for (int i = 0; i < int(guesses.size()); ++i) {
          const Guess& g = guesses[size_t(i)];
          if (i >= n && g.confidence < threshold) continue;
          x[size_t(g.position)] = g.token;
          open[size_t(g.position)] = false;
        }
      }
    }
    x.erase(x.begin(), x.begin() + ptrdiff_t(prompt.size()));
    x.resize(size_t(answer));
    return x;
  }
};

constexpr const char* kKinds[] = {"llada", "dream", "sdar"};

class Diffusion : public testing::TestWithParam<const char*> {
 protected:
  Diffusion() : world(GetParam()) {}
  GenerationOptions options(const std::string& method, int tokens,
                            std::map<std::string, std::string> m) const {
    if (world.blocks()) {
      for (const char* option : {"block_length", "cache", "refresh_every", "warmup", "window"})
        m.erase(option);
    }
    return options_of(method, tokens, std::move(m));
  }
  int block_of(int wanted) const { return world.blocks() ? kAttentionBlock : wanted; }

  MaskedWorld world;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Diffusion, testing::ValuesIn(kKinds),
                         [](const auto& info) { return info.param; });

TEST_P(Diffusion, StaticIsTheReferenceSampler) {
  Draws draws(11);
  for (int round = 0; round < 40; ++round) {
    const Ids prompt = tiny_prompt(uint32_t(round), 1 + draws.below(14));
    const int answer = 1 + draws.below(20), length = 1 + draws.below(9);
    Reference reference{block_of(length)};
    std::map<std::string, std::string> m{{"policy", "static"},
                                         {"block_length", std::to_string(length)}};
    const int first = world.blocks() ? int(prompt.size()) / 4 * 4 : int(prompt.size());
    int size = int(prompt.size()) + answer;
    if (world.blocks()) size = (size + 3) / 4 * 4;
    const int blocks = (size - first + reference.block - 1) / reference.block;
    if (round % 2) {
      reference.steps = blocks * (1 + draws.below(3));
      m["steps"] = std::to_string(reference.steps);
    }
    if (round % 3 == 0) m["early_stop"] = "0";
    const Outcome out = world.run(prompt, options("diffusion", answer, m));
    const Ids expected = reference.run(world, prompt, answer);
    ASSERT_EQ(out.completions[0].ids, expected) << "round " << round;
    EXPECT_LE(int(out.completions[0].statistics.forwards), reference.forwards);
    if (round % 3 == 0) EXPECT_EQ(int(out.completions[0].statistics.forwards), reference.forwards);
  }
}

TEST_P(Diffusion, ThresholdAndSamplingAreTheLoopsInDouble) {
  Draws draws(12);
  for (int round = 0; round < 25; ++round) {
    const Ids prompt = tiny_prompt(uint32_t(round), 2 + draws.below(14));
    const int answer = 4 + draws.below(20);
    Reference reference{block_of(8)};
    reference.threshold = double(draws.uniform(0.02f, 0.5f));
    auto o = options("diffusion", answer,
                     {{"policy", "threshold"},
                      {"threshold", std::to_string(reference.threshold)},
                      {"block_length", "8"}});
    if (round % 2) {
      o.sampling.temperature = 0.8f;
      reference.temperature = double(0.8f);
      o.seed = reference.seed = uint64_t(round) + 99;
    }
    ASSERT_EQ(world.run(prompt, o).completions[0].ids, reference.run(world, prompt, answer))
        << "round " << round;
  }
}

// A cache whose keys and values are all computed again at each forward changes nothing, bit for
// bit.
TEST_P(Diffusion, CachesWithRefreshEveryStepAreExact) {
  if (world.blocks()) GTEST_SKIP() << "always exact";
  for (uint32_t round = 0; round < 6; ++round) {
    const Ids prompt = tiny_prompt(round, 9);
    const auto plain =
        world.run(prompt, options("diffusion", 24, {{"policy", "static"}, {"block_length", "8"}}));
    for (const char* cache : {"prefix", "dual", "vicinity", "delayed"}) {
      const auto cached = world.run(prompt, options("diffusion", 24,
                                                    {{"policy", "static"},
                                                     {"block_length", "8"},
                                                     {"cache", cache},
                                                     {"refresh_every", "1"}}));
      EXPECT_EQ(cached.completions[0].ids, plain.completions[0].ids) << cache;
      EXPECT_EQ(cached.completions[0].statistics.refreshes, 24u) << cache;
    }
    // With one block of the whole answer, the prefix cache still freezes the prompt; the vicinity
    // cache with a window over everything recomputes all of it.
    const auto wide = world.run(prompt, options("diffusion", 24,
                                                {{"policy", "static"},
                                                 {"block_length", "8"},
                                                 {"cache", "vicinity"},
                                                 {"window", "99"}}));
    EXPECT_EQ(wide.completions[0].ids, plain.completions[0].ids);
  }
}

// What a cache feeds: rows per forward, counted.
TEST_P(Diffusion, CachesFeedWhatTheySay) {
  if (world.blocks()) GTEST_SKIP() << "see BlocksAreKept";
  const Ids prompt = tiny_prompt(3, 10);
  const int extra = world.shifted() ? 1 : 0;  // who predicts the first of the block
  const auto rows = [&](std::map<std::string, std::string> m) {
    m.insert({{"policy", "static"}, {"block_length", "6"}});
    std::vector<int> out;
    auto o = options("diffusion", 12, m);
    o.on_canvas = [&](const CanvasStep& step) { out.push_back(step.rows); };
    world.run(prompt, o);
    return out;
  };
  const int all = 22;
  EXPECT_EQ(rows({}), std::vector<int>(12, all));
  std::vector<int> prefix, dual, vicinity;
  for (const int left : {12, 6}) {
    for (auto* v : {&prefix, &dual, &vicinity}) v->push_back(all);
    for (int i = 1; i < 6; ++i) {
      // The predictor of the block's first position is needed only while that is open.
      prefix.push_back(left);
      dual.push_back(6);
      vicinity.push_back(left == 12 ? 6 + 2 + 2 : 6 + 2);
    }
  }
  const auto near = [&](const std::vector<int>& got, const std::vector<int>& want, int slack) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_GE(got[i], want[i]) << i;
      EXPECT_LE(got[i], want[i] + slack) << i;
    }
  };
  near(rows({{"cache", "prefix"}}), prefix, extra);
  near(rows({{"cache", "dual"}}), dual, extra);
  near(rows({{"cache", "vicinity"}, {"window", "2"}}), vicinity, 0);
  // Delayed: what is open, and what the last forward wrote.
  const auto delayed = rows({{"cache", "delayed"}});
  ASSERT_EQ(delayed.size(), 12u);
  EXPECT_EQ(delayed[0], all);
  for (int i = 1; i < 12; ++i) {
    EXPECT_GE(delayed[size_t(i)], 12 - i + 1);
    EXPECT_LE(delayed[size_t(i)], 12 - i + 1 + (extra ? 12 : 0));
  }
}

TEST_P(Diffusion, BlocksAreKept) {
  if (!world.blocks()) GTEST_SKIP() << "full attention";
  const Ids prompt = tiny_prompt(3, 10);
  const auto fused = world.run(prompt, options("diffusion", 14, {{"policy", "static"}}));
  const auto apart =
      world.run(prompt, options("diffusion", 14, {{"policy", "static"}, {"store_apart", "1"}}));
  EXPECT_EQ(fused.completions[0].ids, apart.completions[0].ids);
  EXPECT_EQ(fused.completions[0].statistics.forwards, 14u);
  // The prompt's two whole blocks, and three finished ones of the answer.
  EXPECT_EQ(apart.completions[0].statistics.stores, 4u);
  EXPECT_EQ(apart.completions[0].statistics.forwards, 14u + 4u);
  EXPECT_EQ(fused.statistics.rows, 8u + 14u * 4u + 3u * 4u);
  // A long prompt is stored in parts.
  const Ids book = tiny_prompt(5, 700);
  const auto long_one = world.run(book, options("diffusion", 4, {{"policy", "static"}}));
  EXPECT_EQ(long_one.completions[0].statistics.stores, 3u);
  Reference reference{kAttentionBlock};
  EXPECT_EQ(long_one.completions[0].ids, reference.run(world, book, 4));
}

TEST_P(Diffusion, FreedaveWritesTheSameWithFewerForwards) {
  uint64_t fewer = 0, all = 0, accepted = 0;
  Draws draws(31);
  for (int round = 0; round < 90; ++round) {
    const Ids prompt = tiny_prompt(uint32_t(round), 1 + draws.below(12));
    const int answer = 1 + draws.below(30);
    constexpr const char* kCaches[] = {"none", "prefix", "dual", "vicinity"};
    const std::vector<std::map<std::string, std::string>> policies{
        {{"policy", "static"}},
        {{"policy", "static"}, {"order", "margin"}},
        {{"policy", "threshold"}, {"threshold", "0.1"}},
        {{"policy", "threshold"}, {"threshold", "0.05"}, {"threshold_decay", "0.3"}},
        {{"policy", "factor"}, {"factor", "3"}},
        {{"policy", "entropy"}, {"entropy", "3"}},
        {{"policy", "entropy-bounded"}, {"entropy_bound", "7"}},
        {{"policy", "hierarchy"}, {"threshold", "0.3"}, {"low_threshold", "0.1"}},
        {{"policy", "static"}, {"guidance", "0.8"}},
        {{"policy", "static"}, {"late_end", "1"}}};
    auto m = policies[size_t(round) % policies.size()];
    m["block_length"] = std::to_string(1 + draws.below(12));
    m["cache"] = kCaches[draws.below(4)];
    if (m["cache"] == "vicinity") m["window"] = std::to_string(draws.below(4));
    if (world.blocks() && round % 2) m["store_apart"] = "1";
    if (round % 6 == 1) m["cut"] = "committed";
    if (answer >= 4 && round % 4 == 1) m["pin"] = "1:th|-1:er";
    auto o = options("diffusion", answer, m);
    if (round % 4 == 3) {
      o.sampling.temperature = 0.7f;
      o.seed = uint64_t(round);
    }
    if (round % 5 > 2) o.ignore_eos = false;
    o.sampling.logprobs = 0;
    const auto plain = world.run(prompt, o);
    for (const int d : {1, 2, 5, 9}) {
      for (const char* eager : {"0", "1"}) {
        auto f = o;
        f.method = "freedave";
        f.method_options["draft_steps"] = std::to_string(d);
        if (world.blocks()) f.method_options["eager"] = eager;
        const auto fast = world.run(prompt, f);
        ASSERT_EQ(fast.completions[0].ids, plain.completions[0].ids)
            << "round " << round << ", " << d << " steps";
        ASSERT_EQ(fast.completions[0].text, plain.completions[0].text);
        for (size_t i = 0; i < plain.completions[0].picked.size(); ++i) {
          ASSERT_EQ(fast.completions[0].picked[i].raw_log_probability,
                    plain.completions[0].picked[i].raw_log_probability);
        }
        const auto& s = fast.completions[0].statistics;
        ASSERT_LE(s.forwards, plain.completions[0].statistics.forwards);
        // An eager look sees the next block, too, and saves its first forward where that is not
        // shared with a store.
        if (d == 1 && eager == std::string("0"))
          ASSERT_EQ(s.forwards, plain.completions[0].statistics.forwards);
        if (d > 1) {
          fewer += s.forwards;
          all += plain.completions[0].statistics.forwards;
          accepted += s.accepted;
        }
      }
    }
  }
  EXPECT_LT(fewer, all);
  EXPECT_GT(accepted, 0u);
}

// What a step of the trace writes says how many drafts stood before it: with one position a step,
// all but the first.
TEST_P(Diffusion, FreedaveCountsItsChains) {
  std::vector<uint64_t> drafted_at, accepted_at, written;
  uint64_t proposed = 0, accepted = 0;
  for (uint32_t round = 0; round < 24; ++round) {
    auto o = options("freedave", 24,
                     {{"policy", "static"}, {"block_length", "12"}, {"draft_steps", "6"}});
    o.on_canvas = [&](const CanvasStep& step) {
      written.resize(std::max(written.size(), step.written.size() + 1));
      ++written[step.written.size()];
    };
    const auto s = world.run(tiny_prompt(round, 6), o).completions[0].statistics;
    add_counts(drafted_at, s.drafted_at);
    add_counts(accepted_at, s.accepted_at);
    proposed += s.proposed;
    accepted += s.accepted;
  }
  const std::vector<uint64_t> chains = chain_lengths(drafted_at, accepted_at);
  ASSERT_EQ(chains.size(), 6u);  // draft_steps - 1 beside the policy's own step
  uint64_t steps = 0, stood = 0, long_ones = 0;
  for (size_t k = 1; k < chains.size(); ++k) {
    EXPECT_EQ(chains[k], k + 1 < written.size() ? written[k + 1] : 0) << k;
    stood += k * chains[k];
    long_ones += k > 1 ? chains[k] : 0;
  }
  for (const uint64_t d : drafted_at) steps += d;
  EXPECT_EQ(steps, proposed);
  EXPECT_EQ(stood, accepted);
  EXPECT_GT(long_ones, 0u);
  EXPECT_GT(chains[0], 0u);
  // Steps of one position either had drafts, none of which stood, or nothing to draft.
  EXPECT_LE(chains[0], written[1]);
}

TEST(DraftCounts, ChainsAreDifferences) {
  MethodStatistics s;
  // Forwards with four, two, four and three drafts, of which this many stood.
  count_drafts(s, 4, 4);
  count_drafts(s, 2, 0);
  count_drafts(s, 4, 1);
  count_drafts(s, 3, 1);
  EXPECT_EQ(s.drafted_at, (std::vector<uint64_t>{4, 4, 3, 2}));
  EXPECT_EQ(s.accepted_at, (std::vector<uint64_t>{3, 1, 1, 1}));
  EXPECT_EQ(chain_lengths(s.drafted_at, s.accepted_at), (std::vector<uint64_t>{1, 2, 0, 0, 1}));
  EXPECT_TRUE(chain_lengths({}, {}).empty());
}

// Policies, caches, seeds and kinds of methods in one engine: everybody's tokens are those of a
// lone run.
TEST_P(Diffusion, MixedRequestsShareTicks) {
  std::vector<TinyWorld::Job> jobs;
  constexpr const char* kPolicies[] = {"static",    "threshold", "factor",
                                       "entropy",   "hierarchy", "entropy-bounded",
                                       "confident", "credit",    "schedule"};
  constexpr const char* kCaches[] = {"none", "prefix", "dual", "vicinity", "delayed"};
  for (int i = 0; i < 27; ++i) {
    const std::string policy = kPolicies[i % 9];
    std::map<std::string, std::string> m{
        {"policy", policy}, {"block_length", std::to_string(3 + i % 6)}, {"cache", kCaches[i % 5]}};
    if (policy == "threshold" || policy == "hierarchy" || policy == "confident" ||
        policy == "credit") {
      m["threshold"] = "0.2";
    }
    if (policy == "schedule") m["bernoulli"] = "1";
    if (policy == "static" && i >= 9)
      m["order"] = "sequential";  // plain decoding: from left to right, one a forward
    auto o = options("diffusion", 10 + i % 7, m);
    o.seed = uint64_t(i);
    if (i % 2 && policy != "credit") o.sampling.temperature = 0.9f;
    if (i % 4 == 0 && i % 9 < 6) o.method = "freedave", o.method_options["cache"] = "dual";
    if (world.blocks()) o.method_options.erase("cache");
    jobs.emplace_back(tiny_prompt(uint32_t(i), 3 + i % 11), o);
  }
  const auto together = world.run(jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_FALSE(together[i].error) << i;
    const auto alone = world.run(jobs[i].prompt, jobs[i].options);
    EXPECT_EQ(together[i].completions[0].ids, alone.completions[0].ids) << i;
  }
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
}

TEST_P(Diffusion, WaitsAreCounted) {
  const Ids prompt = tiny_prompt(4, 8);
  std::vector<CanvasStep> steps;
  std::vector<Ids> states;
  auto o = options("diffusion", 12,
                   {{"policy", "static"}, {"order", "sequential"}, {"block_length", "12"}});
  if (world.blocks()) o.method_options.erase("block_length");
  o.on_canvas = [&](const CanvasStep& step) {
    states.emplace_back(step.tokens.begin(), step.tokens.end());
  };
  const Completion c = world.run(prompt, o).completions[0];
  // Again from the states, over the oracle's logits: since when was the written token the likeliest
  // there?
  std::vector<uint64_t> waits;
  std::map<int, std::pair<int32_t, int>> leaders;
  Ids before = states.front();
  std::ranges::fill(before.begin() + ptrdiff_t(prompt.size()), before.end(), kMask);
  for (const Ids& after : states) {
    const auto logits = world.logits_of(before);
    // The prompt, too, may hold the mask's id.
    const int first = int(
        std::find(before.begin() + ptrdiff_t(prompt.size()), before.end(), kMask) - before.begin());
    const int begin = world.blocks() ? first / kAttentionBlock * kAttentionBlock : first;
    const int end = world.blocks() ? begin + kAttentionBlock : int(before.size());
    for (int p = first; p < end; ++p) {
      if (before[size_t(p)] != kMask) continue;
      const auto& l = logits[size_t(p - (world.shifted() ? 1 : 0))];
      const int32_t best = int32_t(std::max_element(l.begin(), l.begin() + kMask) - l.begin());
      auto& [token, since] = leaders.try_emplace(p, -1, 0).first->second;
      since = token == best ? since + 1 : 0;
      token = best;
      if (after[size_t(p)] == kMask) continue;
      if (waits.size() <= size_t(since)) waits.resize(size_t(since) + 1);
      ++waits[size_t(since)];
    }
    before = after;
  }
  EXPECT_EQ(c.statistics.waits, waits);
  EXPECT_GT(waits.size(), 1u);
}

TEST_P(Diffusion, PinsStandAndCountAsContext) {
  const Ids prompt = tiny_prompt(1, 6);
  auto o = options("diffusion", 12,
                   {{"policy", "static"}, {"block_length", "12"}, {"pin", "0:th|-2:er"}});
  for (int round = 0; round < 20; ++round) {
    o.sampling.temperature = 1.0f;
    o.seed = uint64_t(round);
    const auto out = world.run(prompt, o);
    const auto& ids = out.completions[0].ids;
    const Ids start = world.tokenizer.encode("th");
    ASSERT_EQ(ids.size(), 12u);
    EXPECT_TRUE(std::equal(start.begin(), start.end(), ids.begin()));
    const Ids end = world.tokenizer.encode("er");
    EXPECT_TRUE(std::equal(end.begin(), end.end(), ids.begin() + 10));
    EXPECT_LE(out.completions[0].statistics.forwards, 14u);
  }
  const auto fails = [&](const std::string& pin) {
    auto bad = o;
    bad.method_options["pin"] = pin;
    EXPECT_THROW(world.run(prompt, bad), Error) << pin;
  };
  for (const char* pin : {"12:th", "-20:th", "0:th|0:er", "th", "x:th", "10:abcdefgh"}) {
    fails(pin);
  }
}

TEST_P(Diffusion, GuidanceIsTheMixtureOfTwoReadings) {
  const Ids prompt = tiny_prompt(8, 8);
  constexpr double kGuidance = 1.5;
  auto o =
      options("diffusion", 8, {{"policy", "static"}, {"block_length", "8"}, {"guidance", "1.5"}});
  const Ids got = world.run(prompt, o).completions[0].ids;
  // The first written position, by the oracle.
  Ids x = prompt, blind(prompt.size(), kMask);
  x.resize(16, kMask);
  blind.resize(16, kMask);
  const auto c = world.logits_of(x), u = world.logits_of(blind);
  const int end = world.blocks() ? 12 : 16;
  double best = -1;
  int at = -1;
  int32_t token = -1;
  for (int p = 8; p < end; ++p) {
    const size_t row = size_t(p - (world.shifted() ? 1 : 0));
    std::vector<double> l;
    for (size_t v = 0; v < c[row].size(); ++v) {
      l.push_back(double(u[row][v]) + (1 + kGuidance) * (double(c[row][v]) - double(u[row][v])));
    }
    double sum = 0;
    for (const double v : l) sum += std::exp(v);
    size_t top = 0;
    for (size_t v = 1; v + 1 < l.size(); ++v) {
      if (l[v] > l[top]) top = v;
    }
    if (std::exp(l[top]) / sum > best) {
      best = std::exp(l[top]) / sum;
      at = p;
      token = int32_t(top);
    }
  }
  EXPECT_EQ(got[size_t(at - 8)], token);
  // Without guidance it is another text, and with zero the same as without the option.
  auto zero = o, none = o;
  zero.method_options["guidance"] = "0";
  none.method_options.erase("guidance");
  EXPECT_EQ(world.run(prompt, zero).completions[0].ids, world.run(prompt, none).completions[0].ids);
}

TEST_P(Diffusion, TextEndsAtTheEndTokenAndEarlyStopChangesNothing) {
  int ended = 0;
  for (uint32_t round = 0; round < 40; ++round) {
    const Ids prompt = tiny_prompt(round, 7);
    auto o = options("diffusion", 40,
                     {{"policy", "threshold"}, {"threshold", "0.15"}, {"block_length", "10"}});
    o.ignore_eos = false;
    o.sampling.temperature = 1.3f;
    o.seed = round;
    const auto stopped = world.run(prompt, o);
    o.method_options["early_stop"] = "0";
    const auto whole = world.run(prompt, o);
    EXPECT_EQ(stopped.completions[0].ids, whole.completions[0].ids);
    EXPECT_EQ(stopped.completions[0].finish, whole.completions[0].finish);
    EXPECT_LE(stopped.completions[0].statistics.forwards, whole.completions[0].statistics.forwards);
    ended += stopped.completions[0].finish == Finish::kStop;
    // Cutting never makes the sequence longer; what is out stays well-formed.
    for (const char* cut : {"committed", "reference"}) {
      for (const char* cache : {"none", "dual", "prefix"}) {
        auto c = o;
        c.method_options["cut"] = cut;
        if (!world.blocks()) c.method_options["cache"] = cache;
        int size = 1 << 20;  // of the sequence: never longer than before
        c.on_canvas = [&](const CanvasStep& step) {
          EXPECT_LE(int(step.tokens.size()), size);
          size = int(step.tokens.size());
        };
        const auto out = world.run(prompt, c);
        EXPECT_NE(out.completions[0].finish, Finish::kRunning);
        // Blocks do not see what comes behind them, and are not cut: there nothing changes.
        if (world.blocks() && c.method_options["cut"] == "committed") {
          EXPECT_EQ(out.completions[0].ids, stopped.completions[0].ids);
        }
        if (c.method_options["cache"] == "dual") {
          c.method_options["refresh_every"] = "1";
          size = 1 << 20;
          const auto fresh = world.run(prompt, c);
          c.method_options["cache"] = "none";
          c.method_options.erase("refresh_every");
          size = 1 << 20;
          EXPECT_EQ(fresh.completions[0].ids, world.run(prompt, c).completions[0].ids);
        }
      }
    }
  }
  EXPECT_GT(ended, 3);
}

TEST_P(Diffusion, SmoothingAndOddOptionsRun) {
  const Ids prompt = tiny_prompt(2, 6);
  for (auto m : std::vector<std::map<std::string, std::string>>{
           {{"smoothing", "0.3"}, {"cache", "vicinity"}, {"warmup", "4"}, {"window", "3"}},
           {{"late_end", "1"}},
           {{"no_end", "1"}},
           {{"noise", "forward"}},
           {{"order", "random"}, {"policy", "static"}},
           {{"block_length", "0"}},
           {{"cache", "delayed"}, {"refresh_every", "3"}}}) {
    const std::string first = m.begin()->first;
    auto o = options("diffusion", 16, m);
    o.seed = 5;
    o.sampling.temperature = 0.5f;
    const auto a = world.run(prompt, o), b = world.run(prompt, o);
    EXPECT_EQ(a.completions[0].ids.size(), 16u) << first;
    EXPECT_EQ(a.completions[0].ids, b.completions[0].ids) << first;
    EXPECT_TRUE(std::ranges::count(a.completions[0].ids, kMask) == 0) << first;
  }
}

TEST_P(Diffusion, WhatDoesNotGoTogetherIsRefused) {
  const Ids prompt = tiny_prompt(2, 6);
  const auto message = [&](const std::string& method, std::map<std::string, std::string> m,
                           auto change) {
    auto o = options_of(method, 16, std::move(m));
    change(o);
    try {
      world.run(prompt, o);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const auto nothing = [](GenerationOptions&) {};
  const auto expect = [](const std::string& got, const std::string& part) {
    EXPECT_NE(got.find(part), std::string::npos) << got;
  };
  expect(message("plain", {}, nothing), "use diffusion, freedave");
  expect(message("diffusion", {{"policy", "brave"}}, nothing), "policies are static");
  expect(message("diffusion", {{"order", "up"}}, nothing), "give confidence, margin");
  expect(message("diffusion", {{"steps", "7"}, {"policy", "static"}}, nothing),
         world.blocks() ? "steps=7" : "no error");
  expect(message("diffusion", {}, [](GenerationOptions& o) { o.sampling.presence_penalty = 1; }),
         "penalties");
  expect(message("diffusion", {}, [](GenerationOptions& o) { o.sampling.logprobs = 3; }),
         "logprobs");
  expect(message("freedave", {{"policy", "credit"}}, nothing), "freedave: policy credit");
  expect(message("freedave", {{"cut", "reference"}}, nothing), "cut=reference");
  expect(message("freedave", {{"policy", "learned"}}, nothing), "freedave: policy learned");
  expect(message("diffusion", {{"policy", "static"}, {"threshold", "0.5"}}, nothing),
         "threshold=0.5");
  expect(message("diffusion", {{"policy", "entropy"}, {"order", "margin"}}, nothing),
         "ranking of its own");
  expect(message("diffusion", {{"policy", "credit"}},
                 [](GenerationOptions& o) { o.sampling.temperature = 1; }),
         "policy credit");
  expect(message("diffusion", {{"policy", "confident"}, {"order", "entropy"}}, nothing),
         "order=entropy");
  if (world.blocks()) {
    expect(message("diffusion", {{"cache", "dual"}}, nothing), "exactly");
    expect(message("diffusion", {{"block_length", "8"}}, nothing), "blocks of 4");
  } else {
    expect(message("freedave", {{"cache", "delayed"}}, nothing), "delayed");
    expect(message("diffusion", {{"refresh_every", "2"}}, nothing), "choose a cache");
    expect(message("diffusion", {{"store_apart", "1"}}, nothing), "store_apart");
    expect(message("diffusion", {{"block_length", "4"}, {"steps", "7"}}, nothing),
           "shared by 4 blocks");
  }
}

TEST_P(Diffusion, AutoAndLogprobsAndSamples) {
  const Ids prompt = tiny_prompt(4, 6);
  auto o = options_of("auto", 9, {});
  o.sampling.logprobs = 0;
  o.sampling.temperature = 0.6f;
  o.n = 3;
  o.seed = 3;
  const auto out = world.run(prompt, o);
  ASSERT_EQ(out.completions.size(), 3u);
  EXPECT_NE(out.completions[0].ids, out.completions[1].ids);
  for (const auto& c : out.completions) {
    ASSERT_EQ(c.picked.size(), 9u);
    for (const auto& p : c.picked) EXPECT_LE(p.raw_log_probability, 0);
    EXPECT_GT(c.statistics.forwards, 0u);
  }
}

// `verify=subset` keeps parts of a verified step: another text than the policy's at times, never
// more forwards.
TEST_P(Diffusion, SubsetVerificationTakesParts) {
  uint64_t exact = 0, subset = 0;
  for (uint32_t round = 0; round < 20; ++round) {
    auto o = options("freedave", 24,
                     {{"policy", "threshold"}, {"threshold", "0.12"}, {"block_length", "12"}});
    exact += world.run(tiny_prompt(round, 6), o).completions[0].statistics.forwards;
    o.method_options["verify"] = "subset";
    const auto out = world.run(tiny_prompt(round, 6), o);
    EXPECT_EQ(out.completions[0].ids.size(), 24u);
    subset += out.completions[0].statistics.forwards;
  }
  EXPECT_LE(subset, exact);
}

// Few pages: fewer drafts are tried, and the text is the same.
TEST_P(Diffusion, DraftsFitThePagesThereAre) {
  engine::EngineOptions few;
  few.pages = 5;
  MaskedWorld small(GetParam(), few);
  const Ids prompt = tiny_prompt(3, 20);
  auto o = options("freedave", 40, {{"policy", "static"}, {"block_length", "20"}});
  o.method_options["draft_steps"] = "64";
  EXPECT_EQ(small.run(prompt, o).completions[0].ids, world.run(prompt, o).completions[0].ids);
}

// A line per forward, pins before the first, every position written once.
TEST_P(Diffusion, TheTraceTellsAll) {
  for (const char* method : {"diffusion", "freedave"}) {
    auto o =
        options(method, 12,
                {{"policy", "static"}, {"block_length", "6"}, {"cache", "dual"}, {"pin", "2:th"}});
    std::vector<std::string> kinds;
    std::map<int, int32_t> written;
    uint64_t forwards = 0;
    int rows = 0;
    o.on_canvas = [&](const CanvasStep& step) {
      kinds.emplace_back(step.kind);
      for (const auto& w : step.written) {
        EXPECT_TRUE(written.emplace(w.position - step.prompt, w.token).second) << w.position;
        EXPECT_EQ(step.tokens[size_t(w.position)], w.token);
      }
      forwards += step.kind != "pin" && step.kind != "commit";
      rows += step.rows;
    };
    const auto out = world.run(tiny_prompt(1, 6), o);
    EXPECT_EQ(kinds.front(), "pin");
    EXPECT_EQ(forwards, out.completions[0].statistics.forwards);
    EXPECT_EQ(uint64_t(rows), out.statistics.rows);
    for (int i = 0; i < 12; ++i) EXPECT_EQ(written.at(i), out.completions[0].ids[size_t(i)]);
    if (!world.blocks()) {
      EXPECT_EQ(std::ranges::count(kinds, "refresh"), 2);
    }
  }
}

// A causal model that writes from left to right and a masked one that fills in take turns on the
// same cores.
TEST(Diffusion, ACausalAndAMaskedEngineShareTheCores) {
  const auto lease = std::make_shared<engine::CoreLease>();
  const engine::TinyModel causal = engine::tiny_model(tensor::Type::kF32,
                                                      tensor::Arithmetic::kExactQ8, 1),
                          masked = engine::tiny_model(tensor::Type::kF32,
                                                      tensor::Arithmetic::kExactQ8, 1, 0, "llada");
  const auto tokenizer = tiny_tokenizer();
  const auto run = [&](const engine::TinyModel& tiny, std::shared_ptr<engine::CoreLease> shared,
                       const std::string& method) {
    engine::Engine engine(tiny.model, tiny.pool, TinyWorld::with_pages({}), std::move(shared));
    std::vector<Ids> out(12);
    for (size_t i = 0; i < out.size(); ++i) {
      const auto request = engine.new_request();
      engine.spawn(
          request,
          [&, i, request]() -> Task<void> {
            GenerationOptions o;
            o.method = method;
            o.max_tokens = 20;
            o.ignore_eos = true;
            o.seed = i;
            o.sampling.temperature = 0.8f;
            const auto completions =
                co_await generate(engine, tokenizer, request, tiny_prompt(uint32_t(i), 5), o, {});
            out[i] = completions.front().ids;
          },
          [](std::exception_ptr e) { EXPECT_FALSE(e); });
    }
    engine.run();
    return out;
  };
  const auto plain_alone = run(causal, nullptr, "plain"),
             filled_alone = run(masked, nullptr, "diffusion");
  std::vector<Ids> filled;
  std::thread other([&] { filled = run(masked, lease, "diffusion"); });
  const auto plain = run(causal, lease, "plain");
  other.join();
  EXPECT_EQ(plain, plain_alone);
  EXPECT_EQ(filled, filled_alone);
}

TEST(Diffusion, AModelWithoutMaskTokenIsRefused) {
  models::DraftShape shape;
  shape.head_dim = 16;
  shape.vocab = kTinyVocab;
  models::Draft draft = models::draft("llada", shape);
  draft.keys.erase("tokenizer.ggml.mask_token_id");
  const auto pool = std::make_shared<ComputePool>(1);
  const auto model = std::make_shared<models::Model>(
      std::make_shared<models::Checkpoint>(draft.load()), tensor::Arithmetic::kExactQ8, *pool);
  engine::Engine engine(model, pool, TinyWorld::with_pages({}));
  const auto tokenizer = tiny_tokenizer();
  const auto request = engine.new_request();
  std::exception_ptr error;
  engine.spawn(
      request,
      [&]() -> Task<void> {
        co_await generate(engine, tokenizer, request, tiny_prompt(1, 4), GenerationOptions(), {});
      },
      [&](std::exception_ptr e) { error = e; });
  engine.run();
  ASSERT_TRUE(error);
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no mask token"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace tutti::decode
