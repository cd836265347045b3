// PEARL's text is that of plain decoding, whatever drafts and however the two meet; and its steps
// are those of a simulation of the published state machine, one after the other.
#include "decode/pearl/pearl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "decode/speculative/lossless.h"
#include "decode/speculative/served_draft.h"

namespace tutti::decode {
namespace {

using speculative::expect_same;
using speculative::ServedDraft;
using Options = std::map<std::string, std::string>;
using Jobs = std::vector<TinyWorld::Job>;
using Ids = std::vector<int32_t>;

Jobs jobs_of(int count, float temperature, int tokens, const std::string& method,
             const Options& options, const ServedDraft* draft) {
  Jobs jobs;
  for (int i = 0; i < count; ++i) {
    GenerationOptions o;
    o.sampling.temperature = temperature;
    o.seed = uint64_t(i) + 1;
    o.max_tokens = tokens;
    o.ignore_eos = i % 2 == 0;
    o.method = method;
    o.method_options = options;
    if (draft) o.draft_model = draft->model();
    jobs.emplace_back(tiny_prompt(uint32_t(i), 1 + i % 30), o);
  }
  return jobs;
}

TEST(Pearl, TextIsThatOfPlainWhateverDrafts) {
  ServedDraft itself(tensor::Type::kF32), close(tensor::Type::kQ4_0),
      hostile(tensor::Type::kF32, "llama");
  for (const float temperature : {0.0f, 0.8f}) {
    TinyWorld world;
    const auto plain =
        speculative::run_plain(world, jobs_of(50, temperature, 64, "plain", {}, nullptr));
    for (const ServedDraft* draft : {&itself, &close, &hostile}) {
      for (Options options : {Options{{"gamma", "3"}}, Options{{"gamma", "1"}}, Options{},
                              Options{{"gamma", "4"}, {"pre_verify", "0"}},
                              Options{{"gamma", "4"}, {"post_verify", "0"}},
                              Options{{"gamma", "2"}, {"draft_noise", "none"}},
                              Options{{"gamma", "3"}, {"adaptive", "1"}}}) {
        options.emplace("adaptive", "0");
        const auto got = world.run(jobs_of(50, temperature, 64, "pearl", options, draft));
        for (size_t i = 0; i < got.size(); ++i)
          expect_same(plain[i], got[i], "prompt " + std::to_string(i));
      }
    }
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
  }
}

// The draft model's core is the target's before, between and after drafts.
TEST(Pearl, LendsTheDraftModelsCoreWhereNothingIsDrafted) {
  const auto split = std::make_shared<engine::CoreSplit>(std::vector<std::vector<int>>{{0}, {1}});
  ServedDraft close(tensor::Type::kQ4_0, split);
  TinyWorld world;
  const auto plain = speculative::run_plain(world, jobs_of(12, 0.8f, 48, "plain", {}, nullptr));
  world.engine.use_cores(split, 0);
  EXPECT_EQ(split->cores(0).size(), 2u);
  for (const std::string method : {"pearl", "draft"}) {
    for (const std::string adaptive : {"0", "1"}) {
      Jobs jobs = jobs_of(12, 0.8f, 48, method, {{"adaptive", adaptive}}, &close);
      size_t most = 0;
      for (auto& job : jobs) {
        job.sink = [&](const Piece&, engine::Request&) {
          most = std::max(most, split->cores(1).size());
        };
      }
      const auto got = world.run(jobs);
      for (size_t i = 0; i < got.size(); ++i)
        expect_same(plain[i], got[i], method + ", prompt " + std::to_string(i));
      if (adaptive == "0") EXPECT_EQ(most, 1u) << method;
      EXPECT_EQ(split->cores(0).size(), 2u) << method;
      EXPECT_EQ(split->cores(1).size(), 0u) << method;
    }
  }
}

// Requests of every kind and mixed methods, on few pages.
TEST(Pearl, GoesWithEveryRequestAndOtherMethods) {
  Draws draws(9);
  ServedDraft close(tensor::Type::kQ4_0, "qwen3", 14);
  for (int round = 0; round < 6; ++round) {
    engine::EngineOptions few;
    few.pages = 20;
    TinyWorld world, tight(few);
    Jobs jobs;
    for (int i = 0; i < 16; ++i) {
      jobs.emplace_back(
          speculative::echoing_prompt(uint32_t(500 + round * 16 + i), 1 + draws.below(60)),
          speculative::varied_options(draws, draws.below(40)));
      jobs.back().options.n = 1;
    }
    const auto plain = speculative::run_plain(world, jobs);
    for (auto& job : jobs) {
      const char* const methods[] = {"plain", "pearl", "pearl", "draft"};
      job.options.method = methods[draws.below(4)];
      job.options.draft_model = close.model();
      if (job.options.method == "pearl")
        job.options.method_options = {{"gamma", std::to_string(draws.below(6))},
                                      {"adaptive", std::to_string(draws.below(2))}};
    }
    const auto got = tight.run(jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      expect_same(plain[i], got[i],
                  "round " + std::to_string(round) + ", " + jobs[i].options.method + " " +
                      std::to_string(i));
    }
    EXPECT_EQ(tight.engine.pages().free(), tight.engine.pages().total());
  }
  close.end();
  EXPECT_EQ(close.engine().pages().free(), close.engine().pages().total());
}

// The likeliest token after a text, by plain decoding of one token on a model of its own.
class Oracle {
 public:
  explicit Oracle(tensor::Type type, const std::string& architecture)
      : tiny_(engine::tiny_model(type, tensor::Arithmetic::kExactQ8, 1, 0, architecture)),
        tokenizer_(tiny_tokenizer()),
        engine_(tiny_.model, tiny_.pool) {}
  int32_t operator()(const Ids& text) {
    const auto [it, fresh] = known_.try_emplace(text, -1);
    if (!fresh) return it->second;
    GenerationOptions o;
    o.max_tokens = 1;
    o.ignore_eos = true;
    const auto request = engine_.new_request();
    engine_.spawn(
        request,
        [&]() -> Task<void> {
          const auto done = co_await generate(engine_, tokenizer_, request, text, o, {});
          it->second = done.front().ids.front();
        },
        [](std::exception_ptr e) { EXPECT_FALSE(e); });
    engine_.run();
    return it->second;
  }

 private:
  engine::TinyModel tiny_;
  text::Tokenizer tokenizer_;
  engine::Engine engine_;
  std::map<Ids, int32_t> known_;
};

struct Simulated {
  uint64_t forwards = 1;  // the prompt's
  std::vector<uint64_t> runs;
};

// The sheet's two modes over a text that is known, greedily: x is verified up to x.size() -
// old.size().
Simulated simulate(const Ids& prompt, const Ids& answer, int gamma, Oracle& draft) {
  Simulated s;
  size_t run = 0;
  const auto close_run = [&] {
    if (s.runs.size() <= run) s.runs.resize(run + 1);
    ++s.runs[run];
    run = 0;
  };
  Ids all = prompt;
  all.insert(all.end(), answer.begin(), answer.end());
  size_t verified = prompt.size();
  Ids old;  // drafted and not verified
  const auto drafts = [&](size_t more) {
    Ids x(all.begin(), all.begin() + ptrdiff_t(verified));
    x.insert(x.end(), old.begin(), old.end());
    Ids written;
    for (size_t i = 0; i < more; ++i) {
      written.push_back(draft(x));
      x.push_back(written.back());
    }
    return written;
  };
  // A request drafts only what can still be verified and followed.
  const auto room = [&] { return all.size() - verified; };
  bool first = true;
  while (verified < all.size()) {
    const bool can = old.size() + 1 < room();
    const Ids next = can ? drafts(std::min(size_t(gamma), room() - old.size())) : Ids();
    if (!first) ++s.forwards;
    first = false;
    size_t stood = 0;
    // The forward itself picks one token more than it verifies.
    const size_t tested = std::min(old.size(), room() - 1);
    while (stood < tested && old[stood] == all[verified + stood]) ++stood;
    const bool whole = stood == tested;
    run += stood;
    verified += stood;
    const int32_t picked = all[verified++];
    old.clear();
    if (!whole) {
      close_run();
    } else if (can) {
      if (next.front() == picked) {
        ++run;
        old.assign(next.begin() + 1, next.end());
      } else {
        close_run();
      }
    }
  }
  if (run > 0) close_run();
  return s;
}

TEST(Pearl, StepsAreThoseOfTheSimulation) {
  ServedDraft close(tensor::Type::kQ4_0);
  Oracle oracle(tensor::Type::kQ4_0, "qwen3");
  TinyWorld world;
  size_t longest = 0;
  for (int i = 0; i < 24; ++i) {
    for (const int gamma : {1, 2, 3, 5}) {
      GenerationOptions o;
      o.max_tokens = 24;
      o.ignore_eos = true;
      o.method = "pearl";
      o.method_options = {{"gamma", std::to_string(gamma)}, {"adaptive", "0"}};
      o.draft_model = close.model();
      const Ids prompt = tiny_prompt(uint32_t(i), 1 + i % (gamma + 2));
      const auto done = world.run(prompt, o);
      ASSERT_FALSE(done.error);
      const Completion& c = done.completions.front();
      const Simulated s = simulate(prompt, c.ids, gamma, oracle);
      EXPECT_EQ(c.statistics.forwards, s.forwards) << i << ", gamma " << gamma;
      EXPECT_EQ(c.statistics.runs, s.runs) << i << ", gamma " << gamma;
      longest = std::max(longest, s.runs.size() - 1);
    }
  }
  EXPECT_GT(longest, 6u);  // longer than gamma: a run goes on while drafts stand
}

}  // namespace
}  // namespace tutti::decode
