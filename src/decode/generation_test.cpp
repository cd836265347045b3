// Plain decoding against a loop written out on the engine's full logits, and everything that
// `generate` adds to it: samples, stops, limits, seeds, cancellation, streaming.
#include "decode/generation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/files.h"
#include "decode/hidden_transfer/random_maps.h"
#include "decode/method.h"
#include "decode/speculative/served_draft.h"
#include "decode/speculative/tree_file.h"
#include "decode/tiny_text.h"
#include "formats/safetensors.h"
#include "formats/temporary_folder.h"

namespace tutti::decode {
namespace {

using Ids = std::vector<int32_t>;
constexpr double kNever = -std::numeric_limits<double>::infinity();

// ---- the oracle: one token a step from full logits, every rule on a dense vector in double ----

struct Step {
  int32_t token;
  std::vector<double> log_softmax;  // of the logits as they came
};

struct Oracle {
  const engine::Sampling& s;
  uint64_t seed = 0;
  uint32_t path = 0;

  static std::vector<double> softmax(const std::vector<double>& l) {
    const double most = *std::max_element(l.begin(), l.end());
    double sum = 0;
    std::vector<double> p;
    for (const double x : l) p.push_back(std::exp(x - most));
    for (const double x : p) sum += x;
    for (double& x : p) x /= sum;
    return p;
  }

  // Keeps tokens in ascending order of `key` until `count` are kept or `mass` is reached.
  static void keep(std::vector<double>& l, const std::vector<double>& key, int count, double mass) {
    const std::vector<double> p = softmax(l);
    std::vector<int> order(l.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return key[size_t(a)] < key[size_t(b)]; });
    double sum = 0;
    for (size_t rank = 0; rank < order.size(); ++rank) {
      const size_t id = size_t(order[rank]);
      if (int(rank) >= count || (rank > 0 && sum >= mass)) l[id] = kNever;
      sum += p[id];
    }
  }

  int32_t choose(const std::vector<float>& logits, const Ids& prompt, const Ids& output,
                 int position) const {
    std::vector<double> l(logits.begin(), logits.end());
    for (const auto& [id, bias] : s.logit_bias) l[size_t(id)] += double(bias);
    Ids seen = prompt;
    seen.insert(seen.end(), output.begin(), output.end());
    const size_t window =
        s.penalty_window < 0 ? seen.size() : std::min(seen.size(), size_t(s.penalty_window));
    for (int32_t id = 0; id < kTinyVocab; ++id) {
      double& x = l[size_t(id)];
      if (std::find(seen.end() - ptrdiff_t(window), seen.end(), id) != seen.end()) {
        x = x > 0 ? x / double(s.repetition_penalty) : x * double(s.repetition_penalty);
      }
      const auto count = std::count(output.begin(), output.end(), id);
      if (count > 0) x -= double(s.presence_penalty) + double(s.frequency_penalty) * double(count);
    }
    if (s.temperature == 0) return int32_t(std::max_element(l.begin(), l.end()) - l.begin());
    for (double& x : l) x /= double(s.temperature);
    std::vector<double> key(l.size());
    if (s.top_k > 0 || s.top_p < 1) {
      for (size_t i = 0; i < l.size(); ++i) key[i] = -l[i];
      if (s.top_k > 0) keep(l, key, s.top_k, 2.0);
      if (s.top_p < 1) keep(l, key, kTinyVocab, double(s.top_p));
    }
    if (s.min_p > 0) {
      const std::vector<double> p = softmax(l);
      const double most = *std::max_element(p.begin(), p.end());
      for (size_t i = 0; i < l.size(); ++i) {
        if (p[i] < double(s.min_p) * most) l[i] = kNever;
      }
    }
    if (s.typical_p < 1) {
      const std::vector<double> p = softmax(l);
      double entropy = 0;
      for (const double x : p) entropy -= x > 0 ? x * std::log(x) : 0;
      for (size_t i = 0; i < l.size(); ++i)
        key[i] = p[i] > 0 ? std::fabs(-std::log(p[i]) - entropy) : 1e300;
      keep(l, key, kTinyVocab, double(s.typical_p));
    }
    // The draw: the largest of logit + Gumbel noise of (seed, path, position, token).
    DrawKey draw;
    draw.seed = seed;
    draw.path = path;
    draw.position = uint32_t(position);
    int32_t best = -1;
    double highest = kNever;
    for (int32_t id = 0; id < kTinyVocab; ++id) {
      const double u = (double(draw_word(draw, uint32_t(id))) + 0.5) * 0x1p-32;
      const double height = l[size_t(id)] - std::log(-std::log1p(-u));
      if (height > highest) {
        highest = height;
        best = id;
      }
    }
    return best;
  }

  // At most `longest` tokens; the end token, if one is met, is the last.
  std::vector<Step> run(TinyWorld& world, const Ids& prompt, int longest, bool ignore_eos) const {
    std::vector<Step> steps;
    Ids output;
    std::exception_ptr error;
    const auto request = world.engine.new_request();
    world.engine.spawn(
        request,
        [&]() -> Task<void> {
          engine::Context context(world.engine, request);
          Ids fresh = prompt;
          while (int(output.size()) < longest) {
            engine::Want want;
            want.logits = true;
            engine::Answer answer = co_await world.engine.forward(
                context, engine::Rows::append(fresh, context.next_position(), want));
            const std::vector<float>& logits = answer.rows.back().logits;
            Step step;
            step.token = choose(logits, prompt, output, int(prompt.size() + output.size()));
            for (const double p : softmax({logits.begin(), logits.end()}))
              step.log_softmax.push_back(std::log(p));
            steps.push_back(std::move(step));
            fresh = {steps.back().token};
            if (!ignore_eos && world.tokenizer.is_end(fresh[0])) break;
            output.push_back(fresh[0]);
          }
        },
        [&](std::exception_ptr e) { error = e; });
    world.engine.run();
    if (error) std::rethrow_exception(error);
    return steps;
  }
};

Ids ids_of(const std::vector<Step>& steps, const text::Tokenizer& tokenizer, bool ignore_eos) {
  Ids ids;
  for (const Step& step : steps) {
    if (ignore_eos || !tokenizer.is_end(step.token)) ids.push_back(step.token);
  }
  return ids;
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) {
      return at < text.size() ? unsigned(uint8_t(text[at])) : 0u;
    };
    const auto follows = [&](size_t at) { return (byte(at) & 0xC0) == 0x80; };
    const unsigned b = byte(i);
    if (b < 0x80) {
      i += 1;
    } else if (b >= 0xC2 && b < 0xE0 && follows(i + 1)) {
      i += 2;
    } else if (b >= 0xE0 && b < 0xF0 && follows(i + 1) && follows(i + 2)) {
      const unsigned code = (b & 15) << 12 | (byte(i + 1) & 63) << 6 | (byte(i + 2) & 63);
      if (code < 0x800 || (code >= 0xD800 && code < 0xE000)) return false;
      i += 3;
    } else if (b >= 0xF0 && b < 0xF5 && follows(i + 1) && follows(i + 2) && follows(i + 3)) {
      const unsigned code =
          (b & 7) << 18 | (byte(i + 1) & 63) << 12 | (byte(i + 2) & 63) << 6 | (byte(i + 3) & 63);
      if (code < 0x10000 || code > 0x10FFFF) return false;
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

GenerationOptions sampled(uint64_t seed, int max_tokens = 24) {
  GenerationOptions options;
  options.sampling.temperature = 1.0f;
  options.seed = seed;
  options.max_tokens = max_tokens;
  return options;
}

bool aborted(const std::exception_ptr& error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const boost::system::system_error& e) {
    return e.code() == asio::error::operation_aborted;
  } catch (...) {
  }
  return false;
}

// ---- the rules ----

struct RuleCase {
  const char* name;
  std::function<void(engine::Sampling&)> set;
};

void PrintTo(const RuleCase& c, std::ostream* out) { *out << c.name; }

class Rules : public testing::TestWithParam<RuleCase> {};

INSTANTIATE_TEST_SUITE_P(
    Decode, Rules,
    testing::Values(RuleCase{"greedy", [](auto& s) { s.temperature = 0; }},
                    RuleCase{"law", [](auto&) {}},
                    RuleCase{"temperature", [](auto& s) { s.temperature = 0.6f; }},
                    RuleCase{"top_k", [](auto& s) { s.top_k = 3; }},
                    RuleCase{"top_p", [](auto& s) { s.top_p = 0.6f; }},
                    RuleCase{"min_p", [](auto& s) { s.min_p = 0.2f; }},
                    RuleCase{"typical", [](auto& s) { s.typical_p = 0.5f; }},
                    RuleCase{"repetition", [](auto& s) { s.repetition_penalty = 1.7f; }},
                    RuleCase{"repetition_window",
                             [](auto& s) {
                               s.repetition_penalty = 3.0f;
                               s.penalty_window = 5;
                               s.temperature = 0;
                             }},
                    RuleCase{"presence",
                             [](auto& s) {
                               s.presence_penalty = 2.5f;
                               s.temperature = 0.4f;
                             }},
                    RuleCase{"frequency",
                             [](auto& s) {
                               s.frequency_penalty = 1.5f;
                               s.temperature = 0;
                             }},
                    RuleCase{"bias",
                             [](auto& s) {
                               s.logit_bias = {{50, 4.0f},
                                               {51, 4.0f},
                                               {70, -std::numeric_limits<float>::infinity()}};
                             }},
                    RuleCase{"all",
                             [](auto& s) {
                               s.temperature = 0.9f;
                               s.top_k = 40;
                               s.top_p = 0.95f;
                               s.min_p = 0.02f;
                               s.typical_p = 0.97f;
                               s.repetition_penalty = 1.2f;
                               s.presence_penalty = 0.3f;
                               s.frequency_penalty = 0.2f;
                               s.logit_bias = {{44, 2.0f}};
                             }}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(Rules, PlainDecodingIsTheOracle) {
  TinyWorld world;
  for (const uint32_t stream : {1u, 2u}) {
    const Ids prompt = tiny_prompt(stream, 20 + int(stream));
    GenerationOptions options = sampled(77 + stream, 40);
    options.ignore_eos = stream == 2;
    GetParam().set(options.sampling);
    const auto steps =
        Oracle{options.sampling, 77 + stream}.run(world, prompt, 40, options.ignore_eos);
    const Completion got = world.run(prompt, options).completions.front();
    EXPECT_EQ(got.ids, ids_of(steps, world.tokenizer, options.ignore_eos));
    EXPECT_EQ(got.finish, got.ids.size() < 40 ? Finish::kStop : Finish::kLength);
    EXPECT_TRUE(got.picked.empty());
  }
}

TEST(Generate, LogProbabilitiesAreTheLogSoftmaxOfAllLogits) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(5, 15);
  GenerationOptions options = sampled(4, 12);
  options.ignore_eos = true;
  options.sampling.top_k = 30;  // shapes the draw, not the log-probabilities
  options.sampling.logprobs = 5;
  const auto steps = Oracle{options.sampling, 4}.run(world, prompt, 12, true);
  const Completion got = world.run(prompt, options).completions.front();
  ASSERT_EQ(got.picked.size(), 12u);
  for (size_t i = 0; i < got.picked.size(); ++i) {
    const engine::Picked& p = got.picked[i];
    const auto& expected = steps[i].log_softmax;
    EXPECT_EQ(p.token, steps[i].token);
    EXPECT_NEAR(p.raw_log_probability, expected[size_t(p.token)], 2e-5);
    std::vector<int32_t> order(kTinyVocab);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return expected[size_t(a)] > expected[size_t(b)]; });
    ASSERT_EQ(p.top.size(), 5u);
    for (size_t k = 0; k < 5; ++k) {
      EXPECT_EQ(p.top[k].token, order[k]);
      EXPECT_NEAR(p.top[k].log_probability, expected[size_t(order[k])], 2e-5);
    }
  }
}

TEST(Generate, EndTokensEndAndCanBeIgnored) {
  TinyWorld world;
  for (const int32_t end : {kTinyEos, kTinyTurnEnd}) {
    const Ids prompt = tiny_prompt(6, 9);
    GenerationOptions options = sampled(12, 200);
    const int32_t other = end == kTinyEos ? kTinyTurnEnd : kTinyEos;
    options.sampling.logit_bias = {{end, 3.0f}, {other, -100.0f}};
    const auto steps = Oracle{options.sampling, 12}.run(world, prompt, 200, false);
    ASSERT_EQ(steps.back().token, end);
    const Completion ended = world.run(prompt, options).completions.front();
    EXPECT_EQ(ended.finish, Finish::kStop);
    EXPECT_EQ(ended.ids, ids_of(steps, world.tokenizer, false));

    options.ignore_eos = true;
    options.max_tokens = int(steps.size()) + 5;
    const Completion on = world.run(prompt, options).completions.front();
    EXPECT_EQ(on.ids.size(), steps.size() + 5);
    EXPECT_EQ(on.ids[steps.size() - 1], end);
    EXPECT_EQ(on.finish, Finish::kLength);
    EXPECT_EQ(on.text.find("<"), std::string::npos);  // control tokens have no text
  }
}

// ---- samples ----

TEST(Generate, SamplesShareThePromptAndEqualRunsAlone) {
  TinyWorld world;
  constexpr int kSamples = 8, kPrompt = 100, kTokens = 20;
  const Ids prompt = tiny_prompt(7, kPrompt);
  GenerationOptions options = sampled(21, kTokens);
  options.method = "plain";  // no drafts: rows and pages can be counted
  options.n = kSamples;
  options.ignore_eos = true;  // all samples live to the end, so that their pages can be counted
  int most = 0;
  world.engine.on_tick([&](const engine::TickReport&) {
    most = std::max(most, world.engine.pages().total() - world.engine.pages().free());
  });
  const Outcome out = world.run(prompt, options);
  ASSERT_EQ(out.completions.size(), size_t(kSamples));
  uint64_t rows = kPrompt - 1;
  for (const Completion& c : out.completions) rows += c.ids.size() + (c.finish == Finish::kStop);
  EXPECT_EQ(out.statistics.rows, rows);
  EXPECT_EQ(out.statistics.forwards, 1u + kTokens);  // all samples advance in one forward
  EXPECT_EQ(out.statistics.prompt_tokens, uint64_t(kPrompt));
  // 99 shared slots are 4 pages; the first sample goes on in the last of them, each other adds a
  // page of its own. Unshared it would be 8 * 4.
  EXPECT_EQ(most, 4 + kSamples - 1);
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());

  for (int i = 0; i < kSamples; ++i) {
    const Oracle alone{options.sampling, 21, i == 0 ? 0 : fork_path(0, uint32_t(i))};
    EXPECT_EQ(out.completions[size_t(i)].ids,
              ids_of(alone.run(world, prompt, kTokens, true), world.tokenizer, true));
    for (int j = 0; j < i; ++j)
      EXPECT_NE(out.completions[size_t(i)].ids, out.completions[size_t(j)].ids);
  }
  options.n = 1;
  EXPECT_EQ(out.completions.front().ids, world.run(prompt, options).completions.front().ids);
}

TEST(Generate, SamplesOfAPromptOfOneToken) {
  TinyWorld world;
  GenerationOptions options = sampled(3, 10);
  options.n = 3;
  const Outcome out = world.run({50}, options);
  for (int i = 0; i < 3; ++i) {
    const Oracle alone{options.sampling, 3, i == 0 ? 0 : fork_path(0, uint32_t(i))};
    EXPECT_EQ(out.completions[size_t(i)].ids,
              ids_of(alone.run(world, {50}, 10, false), world.tokenizer, false));
  }
}

// ---- stop strings ----

TEST(Generate, StopStringsAcrossTokenBorders) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(8, 13);
  GenerationOptions options = sampled(5, 40);
  options.ignore_eos = true;
  const Completion whole = world.run(prompt, options).completions.front();
  ASSERT_GT(whole.text.size(), 40u);
  int across = 0;
  for (const size_t length : {1u, 2u, 3u, 5u, 9u}) {
    for (size_t at = 0; at + length <= whole.text.size(); at += 7) {
      const std::string stop = whole.text.substr(at, length);
      options.stop = {"never met", stop, ""};
      const Outcome out = world.run(prompt, options);
      const Completion& c = out.completions.front();
      EXPECT_EQ(c.text, whole.text.substr(0, whole.text.find(stop)));
      EXPECT_EQ(c.finish, Finish::kStop);
      // No token too many: without the last one the stop string is not there yet.
      ASSERT_FALSE(c.ids.empty());
      EXPECT_TRUE(std::equal(c.ids.begin(), c.ids.end(), whole.ids.begin()));
      Ids before(c.ids.begin(), c.ids.end() - 1);
      text::StreamingDetokenizer detokenizer(world.tokenizer);
      std::string so_far;
      for (const int32_t id : before) so_far += detokenizer.push(id);
      EXPECT_EQ(so_far.find(stop), std::string::npos);
      across += c.ids.size() > 1 && so_far.size() > c.text.size();  // its beginning was held back
      std::string printed;
      for (const Piece& piece : out.pieces) printed += piece.text;
      EXPECT_EQ(printed, c.text);
    }
  }
  EXPECT_GT(across, 10);
}

TEST(Generate, TextHeldBackForAStopStringComesOutAtTheEnd) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(8, 13);
  GenerationOptions options = sampled(5, 24);
  options.ignore_eos = true;
  const Completion whole = world.run(prompt, options).completions.front();
  options.stop = {whole.text.substr(whole.text.size() - 4) + "?"};
  const Outcome out = world.run(prompt, options);
  EXPECT_EQ(out.completions.front().text, whole.text);
  EXPECT_EQ(out.completions.front().finish, Finish::kLength);
  std::string printed;
  for (const Piece& piece : out.pieces) printed += piece.text;
  EXPECT_EQ(printed, whole.text);
}

// ---- limits ----

TEST(Generate, MaxTokensAndTheContext) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(9, 30);
  GenerationOptions options = sampled(6, 0);
  options.method = "plain";  // no drafts: rows can be counted
  options.ignore_eos = true;
  Outcome out = world.run(prompt, options);
  EXPECT_TRUE(out.completions.front().ids.empty());
  EXPECT_EQ(out.completions.front().finish, Finish::kLength);
  EXPECT_EQ(out.statistics.rows, 0u);
  for (const int n : {1, 7}) {
    options.max_tokens = n;
    out = world.run(prompt, options);
    EXPECT_EQ(out.completions.front().ids.size(), size_t(n));
    EXPECT_EQ(out.statistics.rows, 30u + uint64_t(n) - 1);  // the last token is not pushed through
    EXPECT_EQ(out.completions.front().finish, Finish::kLength);
  }
  options.context_tokens = 40;
  for (const int n : {-1, 100}) {
    options.max_tokens = n;
    out = world.run(prompt, options);
    EXPECT_EQ(out.completions.front().ids.size(), 10u);
    EXPECT_EQ(out.completions.front().finish, Finish::kLength);
  }
  options.context_tokens = 0;
  options.max_tokens = -1;
  const int context = world.engine.model().config().context_length;
  out = world.run(tiny_prompt(9, context - 3), options);
  EXPECT_EQ(out.completions.front().ids.size(), 3u);
  EXPECT_EQ(out.completions.front().finish, Finish::kLength);
}

TEST(Generate, RefusesWhatMakesNoSense) {
  TinyWorld world;
  const auto kind = [&](Ids prompt, const std::function<void(GenerationOptions&)>& set) {
    GenerationOptions options = sampled(1, 2);
    set(options);
    try {
      world.run(std::move(prompt), options);
    } catch (const Error& error) {
      return int(error.kind());
    }
    return -1;
  };
  const int usage = int(ErrorKind::kUsage), limit = int(ErrorKind::kLimit);
  EXPECT_EQ(kind({}, [](auto&) {}), usage);
  EXPECT_EQ(kind({50, kTinyVocab}, [](auto&) {}), usage);
  EXPECT_EQ(kind({-1}, [](auto&) {}), usage);
  EXPECT_EQ(kind(tiny_prompt(1, 8192), [](auto&) {}), limit);
  EXPECT_EQ(kind(tiny_prompt(1, 20), [](auto& o) { o.context_tokens = 20; }), limit);
  EXPECT_EQ(kind({50}, [](auto& o) { o.context_tokens = 8193; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.context_tokens = -1; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.max_tokens = -2; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.n = 0; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.n = 1025; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.method = "plane"; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.method_options["width"] = "2"; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.sampling.top_p = 1.5f; }), usage);
  EXPECT_EQ(kind({50}, [](auto& o) { o.sampling.logit_bias = {{kTinyVocab, 1.0f}}; }), usage);
  EXPECT_EQ(kind({50}, [](auto&) {}), -1);
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
}

// ---- seeds and neighbours ----

TEST(Generate, ASeedReproducesWhateverRunsBeside) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(10, 25);
  GenerationOptions options = sampled(99, 24);
  options.sampling.logprobs = 2;
  options.sampling.frequency_penalty = 0.3f;
  options.n = 2;
  const Outcome alone = world.run(prompt, options);
  std::vector<TinyWorld::Job> jobs;
  for (uint32_t i = 0; i < 32; ++i) {
    if (i == 13) {
      jobs.emplace_back(prompt, options);
      continue;
    }
    GenerationOptions other = sampled(i, 5 + int(i));
    if (i % 3 == 0) other.seed.reset();
    if (i % 4 == 0) other.n = 3;
    if (i % 5 == 0) {
      other.method = "beam";
      other.n = 1;
      other.sampling.temperature = 0;
    }
    jobs.emplace_back(tiny_prompt(100 + i, 1 + int(i) * 5), other);
  }
  const auto together = world.run(jobs);
  for (const Outcome& out : together) EXPECT_FALSE(out.error);
  for (size_t c = 0; c < 2; ++c) {
    const Completion &a = alone.completions[c], &b = together[13].completions[c];
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.text, b.text);
    ASSERT_EQ(a.picked.size(), b.picked.size());
    for (size_t i = 0; i < a.picked.size(); ++i) {
      EXPECT_EQ(a.picked[i].log_probability, b.picked[i].log_probability);
      EXPECT_EQ(a.picked[i].raw_log_probability, b.picked[i].raw_log_probability);
    }
  }
  // Another seed is another text, and a repeated run the same one.
  EXPECT_EQ(world.run(prompt, options).completions[0].ids, alone.completions[0].ids);
  options.seed = 100;
  EXPECT_NE(world.run(prompt, options).completions[0].ids, alone.completions[0].ids);
}

TEST(Generate, WithoutASeedTextsDiffer) {
  TinyWorld world;
  const Ids prompt = tiny_prompt(11, 10);
  GenerationOptions options = sampled(0, 16);
  options.seed.reset();
  options.ignore_eos = true;
  options.sampling.temperature = 2.0f;
  std::vector<TinyWorld::Job> jobs(3, TinyWorld::Job(prompt, options));
  const auto outcomes = world.run(jobs);
  const Ids again = world.run(prompt, options).completions.front().ids;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NE(outcomes[i].completions.front().ids, again);
    for (size_t j = 0; j < i; ++j) {
      EXPECT_NE(outcomes[i].completions.front().ids, outcomes[j].completions.front().ids);
    }
  }
}

// ---- cancellation ----

TEST(Generate, CancellingInTheStreamFreesThePages) {
  TinyWorld world;
  for (const int n : {1, 4}) {
    GenerationOptions options = sampled(1, 60);
    options.ignore_eos = true;
    const Ids kept_alone = world.run(tiny_prompt(13, 40), options).completions.front().ids;
    GenerationOptions cancelled = options;
    cancelled.n = n;
    std::vector<TinyWorld::Job> jobs{{tiny_prompt(12, 90), cancelled},
                                     {tiny_prompt(13, 40), options}};
    size_t tokens = 0;
    uint64_t cancelled_at = 0;
    int used_later = 0;
    jobs[0].sink = [&](const Piece& piece, engine::Request& request) {
      tokens += piece.ids.size();
      if (tokens < 12 || cancelled_at > 0) return;
      cancelled_at = world.engine.statistics().ticks;
      world.engine.cancel(request);
    };
    world.engine.on_tick([&](const engine::TickReport& report) {
      if (cancelled_at > 0 && report.tick > cancelled_at) {
        used_later =
            std::max(used_later, world.engine.pages().total() - world.engine.pages().free());
      }
    });
    const auto outcomes = world.run(jobs);
    EXPECT_TRUE(aborted(outcomes[0].error));
    EXPECT_LT(tokens, 40u);
    // From the next tick on only the other request holds pages: 40 + 60 slots.
    EXPECT_GT(used_later, 0);
    EXPECT_LE(used_later, 4);
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
    ASSERT_FALSE(outcomes[1].error);
    EXPECT_EQ(outcomes[1].completions.front().ids, kept_alone);
    world.engine.on_tick({});
  }
}

// ---- streaming ----

TEST(Generate, PiecesAreWholeUtf8AndMakeTheText) {
  TinyWorld world;
  GenerationOptions options = sampled(31, 150);
  options.ignore_eos = true;
  options.n = 4;
  for (int32_t id = kFirstByte; id < kFirstLetter; ++id)
    options.sampling.logit_bias.emplace_back(id, 2.0f);
  const Outcome out = world.run(tiny_prompt(14, 12), options);
  int characters = 0;
  for (int choice = 0; choice < 4; ++choice) {
    std::string text;
    Ids ids;
    for (const Piece& piece : out.pieces) {
      if (piece.choice != choice) continue;
      EXPECT_TRUE(is_utf8(piece.text));
      text += piece.text;
      ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
    }
    const Completion& c = out.completions[size_t(choice)];
    EXPECT_EQ(text, c.text);
    EXPECT_EQ(ids, c.ids);
    EXPECT_EQ(text, world.tokenizer.decode(c.ids, true));
    for (size_t at = text.find_first_of("\xC2\xC3\xCE\xCF\xE2\xE3\xE4\xE5\xF0");
         at != std::string::npos;
         at = text.find_first_of("\xC2\xC3\xCE\xCF\xE2\xE3\xE4\xE5\xF0", at + 1)) {
      ++characters;
    }
  }
  EXPECT_GT(characters, 10);  // characters that several tokens make up
}

TEST(Generate, ACharacterUnfinishedAtTheEndIsReplaced) {
  TinyWorld world;
  GenerationOptions options = sampled(32);
  options.ignore_eos = true;
  for (int32_t id = kFirstByte; id < kFirstLetter; ++id)
    options.sampling.logit_bias.emplace_back(id, 3.0f);
  int unfinished = 0;
  for (options.max_tokens = 1; options.max_tokens <= 30; ++options.max_tokens) {
    const Completion c = world.run(tiny_prompt(14, 12), options).completions.front();
    EXPECT_EQ(c.text, world.tokenizer.decode(c.ids, true));
    const std::string bytes = world.tokenizer.decode_bytes(c.ids, true);
    unfinished += text::incomplete_utf8_suffix(bytes) > 0;
  }
  EXPECT_GT(unfinished, 5);
}

// ---- the table of methods ----

// What some methods read that was trained, for the tiny model: random numbers.
class TrainedFiles {
 public:
  explicit TrainedFiles(const TinyWorld& world) {
    Draws draws(31);
    speculative::random_maps(world.tiny.model->checkpoint(), draws, {1, 1}, 0.1f, 1)
        .write(folder_ / "maps", false);
    auto blocks = speculative::random_maps(world.tiny.model->checkpoint(), draws, {2, 2}, 0.1f, 0);
    blocks.kind = train::TransferMaps::Kind::kMedusa;
    blocks.write(folder_ / "blocks", false);
    std::vector<float> values;
    for (int i = 0; i < 2 * 64; ++i) values.push_back(draws.uniform(-1, 1));
    formats::SafetensorsTensor t;
    t.name = "prompt_embeddings";
    t.shape = {2, 64};
    t.data = std::as_bytes(std::span(values));
    std::filesystem::create_directories(folder_ / "prompts");
    formats::write_safetensors(folder_ / "prompts/adapter_model.safetensors", {t});
    write_file_atomically(folder_ / "prompts/adapter_config.json",
                          R"({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2})");
    speculative::TreeFile trees;
    trees.method = "ppd";
    trees.acceptance = {{0.3, 0.1}, {0.2, 0.1}};
    trees.trees = speculative::trees_by_price(trees.acceptance, 20);
    write_file_atomically(folder_ / "prompts/tree.json", speculative::print_tree_file(trees));
  }
  // The options of `method` that have no default.
  std::map<std::string, std::string> options(std::string_view method) const {
    if (method == "hidden-transfer") return {{"maps", (folder_ / "maps").string()}};
    if (method == "medusa") return {{"maps", (folder_ / "blocks").string()}};
    if (method == "ppd") return {{"prompt_tokens", (folder_ / "prompts").string()}};
    return {};
  }

 private:
  formats::TemporaryFolder folder_;
};

TEST(Methods, TheTableTellsTheTruth) {
  TinyWorld causal, masked(engine::EngineOptions{}, "llada"),
      any_order(engine::EngineOptions{}, "xlnet");
  const speculative::ServedDraft drafting(tensor::Type::kQ4_0);
  const TrainedFiles trained(causal);
  const Ids prompt = tiny_prompt(15, 33);
  std::vector<std::string_view> names;
  for (const Method& method : methods()) {
    EXPECT_EQ(std::count(names.begin(), names.end(), method.name), 0) << method.name;
    names.push_back(method.name);
    TinyWorld& world = method.reads == Reads::kCausal   ? causal
                       : method.reads == Reads::kMasked ? masked
                                                        : any_order;
    EXPECT_EQ(&find_method(method.name), &method);
    EXPECT_EQ(&method_for(method.name, world.tiny.model->config()), &method);
    EXPECT_THROW(
        method_for(method.name, (&world == &causal ? masked : causal).tiny.model->config()), Error);
    EXPECT_FALSE(method.source.empty());
    EXPECT_FALSE(method.needs.empty());
    // The printed defaults, given explicitly, change nothing.
    GenerationOptions options;
    options.method = method.name;
    options.draft_model = drafting.model();
    options.max_tokens = 12;
    options.method_options = trained.options(method.name);
    const Ids by_default = world.run(prompt, options).completions.front().ids;
    for (const MethodOption& o : method.options) {
      EXPECT_FALSE(o.help.empty());
      options.method_options.emplace(o.name, o.default_value);
    }
    EXPECT_EQ(world.run(prompt, options).completions.front().ids, by_default);
    if (method.guarantee != Guarantee::kLossless) continue;
    for (const float temperature : {0.0f, 1.0f}) {
      GenerationOptions lossless = sampled(8, 30);
      lossless.method = method.name;
      lossless.method_options = trained.options(method.name);
      lossless.draft_model = drafting.model();
      lossless.sampling.temperature = temperature;
      if (method.reads == Reads::kMasked) {
        const Ids got = world.run(prompt, lossless).completions.front().ids;
        lossless.method = "diffusion";
        lossless.method_options["policy"] = "static";
        EXPECT_EQ(got, world.run(prompt, lossless).completions.front().ids);
        continue;
      }
      if (method.reads == Reads::kAnyOrder) {
        const Ids got = world.run(prompt, lossless).completions.front().ids;
        lossless.method = "any-order";
        EXPECT_EQ(got, world.run(prompt, lossless).completions.front().ids);
        continue;
      }
      EXPECT_EQ(world.run(prompt, lossless).completions.front().ids,
                ids_of(Oracle{lossless.sampling, 8}.run(world, prompt, 30, false), world.tokenizer,
                       false))
          << method.name;
    }
  }
  EXPECT_EQ(method_for("auto", causal.tiny.model->config()).name, "lookup");
  EXPECT_EQ(method_for("auto", masked.tiny.model->config()).name, "diffusion");
  EXPECT_EQ(method_for("auto", any_order.tiny.model->config()).name, "any-order");
  try {
    find_method("none");
    FAIL();
  } catch (const Error& error) {
    for (const std::string_view name : names) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace tutti::decode
