// Requests of a Worker that are cancelled in every state that they can be in: over within a tick,
// their pages back, and whoever runs beside them unhurt.
#include "serve/worker.h"

#include <gtest/gtest.h>

#include "decode/grammar_constraint.h"
#include "decode/tiny_text.h"
#include "serve/api_error.h"

namespace tutti::serve {
namespace {

using decode::GenerationOptions;
using decode::TinyWorld;

// Notes the tick after which a program's frame went, its Contexts before it.
struct EndNote {
  const engine::Engine& engine;
  int64_t& tick;
  ~EndNote() { tick = int64_t(engine.statistics().ticks); }
};

struct Job {
  std::vector<int32_t> prompt;
  GenerationOptions options;
  int64_t ended = -1;  // tick
  int ends = 0;        // calls of on_end
  RunResult result;
  Job(std::vector<int32_t> p, GenerationOptions o) : prompt(std::move(p)), options(std::move(o)) {}
};

Task<std::vector<decode::Completion>> work(TinyWorld& world, Job& job,
                                           std::shared_ptr<engine::Request> request,
                                           decode::PieceSink sink) {
  const EndNote note{world.engine, job.ended};
  co_return co_await decode::generate(world.engine, world.tokenizer, request, job.prompt,
                                      job.options, std::move(sink));
}

// The net thread's work is done in the listener of ticks: all runs on one thread, and ticks can be
// counted.
class Bench {
 public:
  explicit Bench(const std::string& architecture = "qwen3", WorkerLimits limits = {})
      : world(engine::EngineOptions{}, architecture), worker(net, world.engine, limits) {
    world.engine.on_tick([this](const engine::TickReport& report) {
      poll();
      most_pages = std::max(most_pages, world.engine.pages().referenced());
      if (step) step(int64_t(report.tick));
      poll();
      worker.tick(report);
    });
  }

  std::shared_ptr<Run> ask(Job& job) {
    return worker.start(
        [this, &job](std::shared_ptr<engine::Request> request, decode::PieceSink sink) {
          return work(world, job, std::move(request), std::move(sink));
        },
        {},
        [&job](const RunResult& result) {
          ++job.ends;
          job.result = result;
        });
  }

  // Until nothing runs or waits.
  void run() {
    do {
      poll();
      world.engine.run();
      poll();
    } while (worker.running() + worker.queued() > 0);
  }

  asio::io_context net;
  TinyWorld world;
  Worker worker;
  std::function<void(int64_t tick)> step;
  int most_pages = 0;

 private:
  void poll() {
    net.restart();
    net.poll();
  }
};

GenerationOptions options_of(const std::string& method, int tokens,
                             std::map<std::string, std::string> method_options = {}) {
  GenerationOptions o;
  o.method = method;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  o.method_options = std::move(method_options);
  return o;
}

// Of the error that a request ended with; 200: none.
int status_of(const RunResult& result) {
  try {
    if (result.error) std::rethrow_exception(result.error);
  } catch (const ApiError& error) {
    return error.status;
  }
  return 200;
}

struct State {
  const char* name;
  const char* architecture;
  int prompt;
  int64_t tick;  // after which it is cancelled
  GenerationOptions options;
  const char* pattern;  // that its text must match; empty: any
};

void PrintTo(const State& state, std::ostream* out) { *out << state.name; }

GenerationOptions sampled(GenerationOptions options, int n) {
  options.sampling.temperature = 1.0f;
  options.seed = 3;
  options.n = n;
  return options;
}

const State kStates[] = {
    {"before_its_first_tick", "qwen3", 600, 0, options_of("plain", 300), ""},
    {"prefilling", "qwen3", 6000, 2, options_of("plain", 300), ""},
    {"decoding", "qwen3", 400, 9, options_of("plain", 300), ""},
    {"decoding_under_a_grammar", "qwen3", 400, 9, sampled(options_of("plain", 300), 2),
     "[a-z]{300}"},
    {"decoding_with_drafts", "qwen3", 400, 9, options_of("lookup", 300, {{"adaptive", "0"}}), ""},
    {"in_a_fork", "qwen3", 400, 9, sampled(options_of("plain", 300), 6), ""},
    {"among_beams", "qwen3", 400, 9, options_of("beam", 300, {{"width", "6"}}), ""},
    {"in_a_block_of_attention", "sdar", 200, 9, options_of("diffusion", 64, {{"policy", "static"}}),
     ""},
    {"in_a_block_of_a_cached_canvas", "llada", 200, 9,
     options_of("diffusion", 64, {{"policy", "static"}, {"cache", "dual"}, {"block_length", "8"}}),
     ""},
    {"in_a_verified_block", "sdar", 200, 4, options_of("freedave", 64, {{"policy", "static"}}), ""},
};

class Cancel : public testing::TestWithParam<State> {};

TEST_P(Cancel, frees_all_pages_within_a_tick) {
  const State& state = GetParam();
  const bool causal = std::string(state.architecture) == "qwen3";
  const auto other = [&] {
    return Job(
        decode::tiny_prompt(1, 5),
        causal ? options_of("plain", 25) : options_of("diffusion", 24, {{"policy", "static"}}));
  };
  Bench alone(state.architecture);
  Job lone = other();
  alone.ask(lone);
  alone.run();
  ASSERT_FALSE(lone.result.error);

  Bench bench(state.architecture);
  Job victim(decode::tiny_prompt(2, state.prompt), state.options), witness = other();
  if (*state.pattern) {
    victim.options.constraint =
        decode::grammar_constraint({text::GrammarSource::kRegex, state.pattern, {}},
                                   text::TokenTree::of(bench.world.tokenizer, decode::kTinyVocab));
  }
  bench.ask(witness);
  std::shared_ptr<serve::Run> run;
  int64_t cancelled = -1;
  int after = -1;  // pages of the first tick without it
  const int64_t begins = 2;
  bench.step = [&](int64_t tick) {
    const int pages = bench.world.engine.pages().referenced();
    if (tick == begins) run = bench.ask(victim);
    if (tick == begins + state.tick) {
      EXPECT_EQ(victim.ended, -1);
      if (state.tick > 0) EXPECT_GT(pages, alone.most_pages);
      if (state.tick <= 2) EXPECT_LT(run->first_token, 0);
      bench.worker.cancel(run);
      cancelled = tick;
    }
    const bool over = victim.ended >= 0 || victim.ends > 0;
    if (cancelled >= 0 && tick > cancelled && over && after < 0) after = pages;
  };
  bench.run();
  ASSERT_GE(cancelled, 0);
  EXPECT_EQ(victim.ends, 1);
  EXPECT_EQ(status_of(victim.result), 499);
  EXPECT_LE(victim.ended, cancelled + 1);
  ASSERT_GE(after, 0);
  EXPECT_LE(after, alone.most_pages);
  EXPECT_EQ(bench.world.engine.pages().referenced(), 0);
  // Nobody else's text is another.
  ASSERT_EQ(witness.ends, 1);
  ASSERT_FALSE(witness.result.error);
  EXPECT_EQ(witness.result.completions[0].ids, lone.result.completions[0].ids);
  const WorkerMetrics& m = bench.worker.metrics();
  EXPECT_EQ(m.finished.at("abort"), 1u);
  EXPECT_EQ(m.finished.at("length"), 1u);
}

INSTANTIATE_TEST_SUITE_P(In, Cancel, testing::ValuesIn(kStates),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Worker, who_is_cancelled_while_queued_never_runs) {
  WorkerLimits limits;
  limits.running = 1;
  Bench bench("qwen3", limits);
  Job first(decode::tiny_prompt(1, 5), options_of("plain", 20)),
      second(decode::tiny_prompt(2, 5), options_of("plain", 20)),
      third(decode::tiny_prompt(3, 5), options_of("plain", 20));
  bench.ask(first);
  const auto queued = bench.ask(second);
  bench.ask(third);
  bench.step = [&](int64_t tick) {
    if (tick != 4) return;
    EXPECT_EQ(bench.worker.queued(), 2);
    bench.worker.cancel(queued);
    bench.worker.cancel(queued);  // again: nothing more
    EXPECT_EQ(bench.worker.queued(), 1);
  };
  bench.run();
  EXPECT_EQ(status_of(second.result), 499);
  EXPECT_EQ(second.ends, 1);
  EXPECT_EQ(second.ended, -1);
  EXPECT_LT(queued->started, 0);
  for (const Job* job : {&first, &third}) {
    EXPECT_EQ(job->ends, 1);
    ASSERT_FALSE(job->result.error);
    EXPECT_EQ(job->result.completions[0].ids.size(), 20u);
  }
  bench.worker.cancel(queued);  // long over
  bench.run();
  EXPECT_EQ(second.ends, 1);
}

// So many programs that the engine gives each a turn in some ticks only.
TEST(Worker, who_is_cancelled_among_many_does_not_wait_for_a_turn) {
  Bench bench;
  std::vector<Job> jobs(40, Job(decode::tiny_prompt(1, 40), sampled(options_of("plain", 200), 20)));
  std::vector<std::shared_ptr<serve::Run>> runs;
  for (Job& job : jobs) runs.push_back(bench.ask(job));
  int held = 0, left = -1;
  bench.step = [&](int64_t tick) {
    const int pages = bench.world.engine.pages().referenced();
    if (tick == 30) {
      held = pages;
      for (size_t i = 0; i + 1 < jobs.size(); ++i) bench.worker.cancel(runs[i]);
    }
    if (tick == 32) {
      left = pages;
      bench.worker.cancel(runs.back());
    }
  };
  bench.run();
  for (const Job& job : jobs) {
    EXPECT_EQ(status_of(job.result), 499);
    EXPECT_LE(job.ended, &job == &jobs.back() ? 33 : 31);
  }
  // A prompt's page and one or two of each of twenty texts.
  EXPECT_GT(held, 30 * 21);
  EXPECT_LE(left, 42);
  EXPECT_EQ(bench.world.engine.pages().referenced(), 0);
}

TEST(Worker, all_are_cancelled_at_once) {
  WorkerLimits limits;
  limits.running = 3;
  Bench bench("qwen3", limits);
  std::vector<Job> jobs(7, Job(decode::tiny_prompt(1, 40), options_of("plain", 500)));
  for (Job& job : jobs) bench.ask(job);
  bool idle = false;
  bench.step = [&](int64_t tick) {
    if (tick != 6) return;
    bench.worker.drain([&] { idle = true; });
    bench.worker.cancel_all();
  };
  bench.run();
  EXPECT_TRUE(idle);
  for (const Job& job : jobs) {
    EXPECT_EQ(job.ends, 1);
    EXPECT_EQ(status_of(job.result), 503);
    EXPECT_LE(job.ended, 7);
  }
  EXPECT_EQ(bench.world.engine.pages().referenced(), 0);
  EXPECT_THROW(bench.ask(jobs[0]), ApiError);
}

}  // namespace
}  // namespace tutti::serve
