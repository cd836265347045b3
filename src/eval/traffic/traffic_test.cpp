// Traces under every scheduler and layout: the same tokens as alone, the schedule that the oracle
// says, and nothing left behind.
#include "eval/traffic/traffic.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "base/draws.h"
#include "base/error.h"
#include "base/instrumented.h"
#include "decode/tiny_text.h"
#include "eval/traffic/schedule_oracle.h"
#include "eval/traffic/tick_cost.h"

namespace tutti::eval {
namespace {

// Prompts of any length go in one iteration, and programs run until each waits: nothing depends on
// time.
engine::EngineOptions timeless(int pages = 2048, tensor::KvType kv = tensor::KvType::kF16) {
  engine::EngineOptions options;
  options.kv = kv;
  options.pages = pages;
  options.max_prompt_rows = 4096;
  options.streaming_tick_seconds = 1e9;
  options.program_seconds = 1e9;
  return options;
}

struct Variant {
  const char* name;
  Scheduler scheduler;
  Layout layout;
  Shuffle shuffle;
};

constexpr Variant kVariants[] = {
    {"paged", Scheduler::kFused, Layout::kPaged, Shuffle::kOff},
    {"contiguous", Scheduler::kFused, Layout::kContiguous, Shuffle::kOff},
    {"contiguous, shuffled", Scheduler::kFused, Layout::kContiguous, Shuffle::kOn},
    {"contiguous, when it pays", Scheduler::kFused, Layout::kContiguous, Shuffle::kAuto},
    {"dynamic batch", Scheduler::kDynamicBatch, Layout::kPaged, Shuffle::kOff},
    {"instances", Scheduler::kInstances, Layout::kPaged, Shuffle::kOff},
};

TrafficOptions options_of(const Variant& v) {
  TrafficOptions o;
  o.scheduler = v.scheduler;
  o.layout = v.layout;
  o.shuffle = v.shuffle;
  o.tick_seconds = 0.25;
  o.seconds_per_row = 1;
  o.seconds_per_byte = 1e-5;
  return o;
}

// Random arrivals, lengths and rules.
Trace mixed_trace(uint64_t seed, int n, double gap, int longest_prompt, int most_tokens) {
  Draws draws(seed);
  Trace trace;
  double now = 0;
  for (int i = 0; i < n; ++i) {
    TrafficRequest r;
    r.arrival = now;
    if (draws.chance(0.8)) now += double(draws.uniform(0, float(2 * gap)));  // some come together
    r.prompt =
        decode::tiny_prompt(uint32_t(seed * 1000) + uint32_t(i), 1 + draws.below(longest_prompt));
    r.output_tokens = 1 + draws.below(most_tokens);
    r.ignore_eos = draws.chance(0.5);
    if (draws.chance(0.7)) {
      r.sampling.temperature = draws.uniform(0.3f, 1.5f);
      r.seed = draws.word();
      if (draws.chance(0.3)) r.sampling.top_k = 1 + draws.below(40);
      if (draws.chance(0.3)) r.sampling.top_p = draws.uniform(0.3f, 0.99f);
    }
    if (draws.chance(0.3)) r.sampling.repetition_penalty = 1.3f;
    if (draws.chance(0.2)) r.sampling.presence_penalty = 0.5f;
    if (draws.chance(0.4))
      r.sampling.logit_bias = {{decode::kTinyEos, 2.5f}};  // ends sooner or later
    trace.push_back(std::move(r));
  }
  return trace;
}

// The request by the method `plain`, with nothing else on the engine.
struct Alone {
  std::vector<int32_t> ids;  // without the end token
  bool stopped = false;
};

Alone run_alone(decode::TinyWorld& world, const TrafficRequest& r) {
  decode::GenerationOptions options;
  options.sampling = r.sampling;
  options.seed = r.seed;
  options.max_tokens = r.output_tokens;
  options.ignore_eos = r.ignore_eos;
  const decode::Outcome outcome = world.run(r.prompt, options);
  const auto& completion = outcome.completions.front();
  return {completion.ids, completion.finish == decode::Finish::kStop};
}

void expect_alone(const Alone& alone, const RequestRecord& record, const std::vector<int32_t>& ends,
                  const std::string& where) {
  std::vector<int32_t> tokens = record.tokens;
  if (alone.stopped) {
    ASSERT_FALSE(tokens.empty()) << where;
    EXPECT_TRUE(std::find(ends.begin(), ends.end(), tokens.back()) != ends.end()) << where;
    tokens.pop_back();
  }
  EXPECT_EQ(tokens, alone.ids) << where;
}

void expect_tokens_alone(decode::TinyWorld& world, const Trace& trace, bool loaded) {
  std::vector<Alone> alone;
  int stopped = 0;
  for (const auto& r : trace) {
    alone.push_back(run_alone(world, r));
    stopped += alone.back().stopped;
  }
  if (loaded) {
    EXPECT_GT(stopped, 3);
  }
  for (const Variant& v : kVariants) {
    TrafficOptions o = options_of(v);
    o.concurrency = 12;
    o.prompt_rows = 50;
    o.window_seconds = 3;
    o.end_ids = world.tokenizer.end_ids();
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.finished, int(trace.size())) << v.name;
    for (size_t i = 0; i < trace.size(); ++i) {
      expect_alone(alone[i], result.requests[i], o.end_ids,
                   std::string(v.name) + ", request " + std::to_string(i));
    }
    EXPECT_EQ(world.engine.pages().referenced(), 0) << v.name;
    if (!loaded) continue;
    // It was the load that it says it was.
    int most = 0;
    for (const auto& tick : result.ticks) most = std::max(most, tick.in_flight);
    EXPECT_EQ(most, 12) << v.name;
    const bool window = v.layout == Layout::kContiguous;
    if (v.shuffle != Shuffle::kAuto) {
      EXPECT_EQ(result.dead_rows > 0,
                v.scheduler == Scheduler::kDynamicBatch || (window && v.shuffle == Shuffle::kOff))
          << v.name;
    }
    EXPECT_EQ(result.moved_bytes > 0, window && v.shuffle != Shuffle::kOff) << v.name;
  }
}

TEST(Traffic, TokensAreThoseOfEachRequestAlone) {
  decode::TinyWorld world(timeless());
  expect_tokens_alone(world, mixed_trace(1, 64, 0.5, 60, 40), true);
}

TEST(Traffic, TokensOfOtherCacheTypes) {
  for (const auto kv : {tensor::KvType::kF32, tensor::KvType::kI8}) {
    decode::TinyWorld world(timeless(2048, kv));
    expect_tokens_alone(world, mixed_trace(2, 24, 0.3, 70, 30), false);
  }
}

// ---- the schedule ----

void expect_forecast(decode::TinyWorld& world, const Trace& trace, const TrafficOptions& o,
                     const std::string& where) {
  const TrafficResult result = run_traffic(world.engine, trace, o);
  std::vector<ForecastRequest> requests = forecast_requests(trace);
  const Forecast forecast =
      forecast_schedule(requests, o, [&](int, double) { return o.tick_seconds; });
  ASSERT_EQ(int(result.ticks.size()), forecast.iterations()) << where;
  EXPECT_EQ(result.seconds, forecast.seconds) << where;
  for (size_t i = 0; i < trace.size(); ++i) {
    const RequestRecord& r = result.requests[i];
    EXPECT_EQ(r.join, forecast.join[i]) << where << ", request " << i;
    EXPECT_EQ(r.leave, forecast.leave[i]) << where << ", request " << i;
    EXPECT_EQ(r.outcome == RequestRecord::kRefused, forecast.end[i] < 0)
        << where << ", request " << i;
    if (forecast.end[i] >= 0) {
      EXPECT_EQ(r.end, forecast.end[i]) << where << ", request " << i;
    }
  }
  int64_t flights = 0, flown = 0;
  for (size_t k = 0; k < result.ticks.size(); ++k) {
    EXPECT_EQ(result.ticks[k].in_flight, forecast.in_flight[k]) << where << ", iteration " << k;
    EXPECT_EQ(result.ticks[k].rows, forecast.rows[k]) << where << ", iteration " << k;
    EXPECT_EQ(result.ticks[k].dead_rows, forecast.dead_rows[k]) << where << ", iteration " << k;
    flights += result.ticks[k].in_flight;
  }
  for (const auto& r : result.requests) flown += r.join < 0 ? 0 : r.leave - r.join;
  EXPECT_EQ(flights, flown) << where;
}

TEST(Traffic, TheScheduleIsTheOracles) {
  decode::TinyWorld world(timeless());
  run_alone(world, mixed_trace(9, 1, 1, 4, 2).front());  // the engine knows what a forward costs
  Draws draws(3);
  for (int round = 0; round < 40; ++round) {
    Trace trace = mixed_trace(uint64_t(100 + round), 4 + draws.below(16),
                              double(draws.uniform(0.05f, 1.5f)), 12, 12);
    for (auto& r : trace) {
      r.ignore_eos = true;
      if (draws.chance(0.25)) r.cancel_after = double(draws.uniform(0, 4));
    }
    for (const Variant& v : kVariants) {
      if (v.shuffle == Shuffle::kAuto) continue;
      TrafficOptions o = options_of(v);
      o.concurrency = 1 + round % 8;
      o.queue = round % 3 == 0 ? 1 + round % 4 : 0;
      o.admission = round % 2 == 0 ? Admission::kFirstCome : Admission::kShortestPrompt;
      o.window_seconds = round % 5;
      o.prompt_rows = v.layout == Layout::kPaged && v.scheduler == Scheduler::kFused
                          ? 4096
                          : 1 + draws.below(20);
      expect_forecast(world, trace, o, std::string(v.name) + ", round " + std::to_string(round));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Traffic, TheMeanInFlightIsTokensOverIterations) {
  // One token an iteration for everybody in flight: the identity behind the paper's table of
  // overlaps.
  decode::TinyWorld world(timeless());
  run_alone(world, mixed_trace(9, 1, 1, 4, 2).front());
  ArrivalOptions arrivals;
  arrivals.requests = 32;
  arrivals.output_tokens = {64, 64};
  arrivals.prompt_tokens = {8, 8};
  arrivals.process = ArrivalOptions::kPoisson;
  for (const double interval : {0.0, 0.02, 0.2, 1.0}) {
    arrivals.interval = interval * 64;
    const Trace trace = make_trace(arrivals, decode::kTinyVocab);
    for (const Layout layout : {Layout::kPaged, Layout::kContiguous}) {
      TrafficOptions o;
      o.layout = layout;
      o.tick_seconds = 1;
      const TrafficResult result = run_traffic(world.engine, trace, o);
      EXPECT_EQ(result.tokens, 32u * 64u);
      EXPECT_DOUBLE_EQ(result.mean_in_flight(),
                       double(result.tokens) / double(result.ticks.size()));
      for (const auto& r : result.requests) EXPECT_EQ(r.leave - r.join, 64);
      // Nobody waits: the last to arrive is the last to leave, within the iteration that it came
      // in.
      EXPECT_LE(result.seconds, trace.back().arrival + 65);
    }
  }
}

TEST(Traffic, ManyAreAdmittedInOneIteration) {
  decode::TinyWorld world(timeless());
  Trace trace = mixed_trace(4, 20, 0, 9, 9);
  for (const Layout layout : {Layout::kPaged, Layout::kContiguous}) {
    TrafficOptions o;
    o.layout = layout;
    o.tick_seconds = 1;
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.ticks.front().in_flight, 20);
    EXPECT_EQ(result.ticks.front().tokens, 20);
  }
}

// ---- cancelling, refusing, running out ----

TEST(Traffic, WhoeverGoesAwayGivesPagesBackWithinOneIteration) {
  decode::TinyWorld world(timeless());
  Trace trace = mixed_trace(5, 40, 0.7, 70, 60);
  Draws draws(6);
  for (auto& r : trace) {
    r.ignore_eos = true;
    if (draws.chance(0.5)) r.cancel_after = double(draws.uniform(0, 10));
  }
  TrafficOptions o;
  o.tick_seconds = 0.25;
  const TrafficResult result = run_traffic(world.engine, trace, o);
  EXPECT_GT(result.cancelled, 10);
  EXPECT_EQ(result.cancelled + result.finished, 40);
  for (size_t k = 0; k < result.ticks.size(); ++k) {
    // The pages of those in flight by their own account, of nobody else.
    int pages = 0;
    for (size_t i = 0; i < trace.size(); ++i) {
      const RequestRecord& r = result.requests[i];
      if (r.join < 0 || int(k) < r.join || int(k) >= r.leave) continue;
      pages += (int(trace[i].prompt.size()) + int(k) - r.join + 31) / 32;
    }
    ASSERT_EQ(result.ticks[k].pages, pages) << "iteration " << k;
  }
  for (size_t i = 0; i < trace.size(); ++i) {
    const RequestRecord& r = result.requests[i];
    if (r.outcome != RequestRecord::kCancelled) continue;
    EXPECT_GE(r.end, trace[i].arrival + trace[i].cancel_after);
    EXPECT_LE(r.end, trace[i].arrival + trace[i].cancel_after + 0.25);
  }
  EXPECT_EQ(world.engine.pages().referenced(), 0);
}

TEST(Traffic, WhatCannotBeServedIsRefusedWithAReason) {
  decode::TinyWorld world(timeless(60));
  Trace trace = mixed_trace(7, 12, 0.5, 20, 20);
  std::vector<Alone> alone;
  for (const auto& r : trace) alone.push_back(run_alone(world, r));
  TrafficRequest longer = trace[5];
  longer.output_tokens = 60 * 32;  // its own tokens fit no pool of 60 pages
  trace.insert(trace.begin() + 5, longer);
  for (const Variant& v : kVariants) {
    TrafficOptions o = options_of(v);
    o.concurrency = 4;
    o.end_ids = world.tokenizer.end_ids();
    if (v.layout == Layout::kContiguous) o.slot_tokens = 64;
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.refused, 1) << v.name;
    const RequestRecord& refused = result.requests[5];
    EXPECT_EQ(refused.outcome, RequestRecord::kRefused) << v.name;
    EXPECT_EQ(refused.join, -1) << v.name;
    EXPECT_NE(refused.reason.find("; "), std::string::npos) << v.name;  // says what to do
    EXPECT_TRUE(refused.tokens.empty());
    for (size_t i = 0; i < trace.size(); ++i) {
      if (i != 5) expect_alone(alone[i < 5 ? i : i - 1], result.requests[i], o.end_ids, v.name);
    }
  }
}

TEST(Traffic, AFullQueueRefuses) {
  decode::TinyWorld world(timeless());
  Trace trace = mixed_trace(8, 10, 0, 5, 5);
  for (auto& r : trace) r.arrival = 0;
  for (const Variant& v : kVariants) {
    TrafficOptions o = options_of(v);
    o.concurrency = 3;
    o.queue = 2;
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.refused, 5) << v.name;
    for (size_t i = 0; i < 10; ++i)
      EXPECT_EQ(result.requests[i].reason.find("queue of 2") != std::string::npos, i >= 5);
  }
}

TEST(Traffic, OutOfPagesItRecomputesTheSameTokens) {
  // All of them together need some forty pages.
  decode::TinyWorld world(timeless(8));
  Trace trace = mixed_trace(10, 16, 0.1, 40, 60);
  std::vector<Alone> alone;
  for (const auto& r : trace) alone.push_back(run_alone(world, r));
  for (const Variant& v : kVariants) {
    if (v.layout == Layout::kContiguous) continue;
    TrafficOptions o = options_of(v);
    o.concurrency = 16;
    o.end_ids = world.tokenizer.end_ids();
    const uint64_t before = world.engine.statistics().preemptions;
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.finished, 16) << v.name;
    for (size_t i = 0; i < trace.size(); ++i)
      expect_alone(alone[i], result.requests[i], o.end_ids, v.name);
    // A static batch admits what fits; the others admit all and take turns with the pages.
    EXPECT_EQ(world.engine.statistics().preemptions > before,
              v.scheduler != Scheduler::kDynamicBatch)
        << v.name;
    for (const auto& tick : result.ticks) EXPECT_LE(tick.pages, 8);
  }
}

TEST(Traffic, SlotsThatDoNotFitThePoolAreSaidSo) {
  decode::TinyWorld world(timeless(16));
  const Trace trace = mixed_trace(11, 3, 1, 20, 20);
  TrafficOptions o;
  o.layout = Layout::kContiguous;
  o.concurrency = 8;
  o.slot_tokens = 64;
  try {
    run_traffic(world.engine, trace, o);
    ADD_FAILURE() << "8 slots of two pages and scratch fit 16 pages";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kLimit);
    EXPECT_NE(std::string(error.what()).find("--kv-pages"), std::string::npos);
  }
  EXPECT_EQ(world.engine.pages().referenced(), 0);
  o.concurrency = 7;
  EXPECT_EQ(run_traffic(world.engine, trace, o).finished, 3);
}

TEST(Traffic, NonsenseIsRefusedAsUsage) {
  decode::TinyWorld world(timeless(64));
  const Trace good = mixed_trace(12, 2, 1, 5, 5);
  const auto kind = [&](auto change) {
    Trace trace = good;
    TrafficOptions o;
    o.tick_seconds = 1;
    change(trace, o);
    try {
      run_traffic(world.engine, trace, o);
    } catch (const Error& error) {
      return int(error.kind());
    }
    return -1;
  };
  const int usage = int(ErrorKind::kUsage);
  EXPECT_EQ(kind([](Trace&, TrafficOptions&) {}), -1);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t.clear(); }), usage);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t[1].prompt.clear(); }), usage);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t[1].prompt[0] = 96; }), usage);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t[1].output_tokens = 0; }), usage);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t[0].arrival = 99; }), usage);
  EXPECT_EQ(kind([](Trace& t, TrafficOptions&) { t[0].sampling.top_p = 2; }), usage);
  EXPECT_EQ(kind([](Trace&, TrafficOptions& o) { o.concurrency = 0; }), usage);
  EXPECT_EQ(kind([](Trace&, TrafficOptions& o) { o.prompt_rows = 0; }), usage);
  EXPECT_EQ(kind([](Trace&, TrafficOptions& o) { o.queue = -1; }), usage);
  EXPECT_EQ(kind([](Trace&, TrafficOptions& o) { o.window_seconds = -1; }), usage);
}

// ---- what the layouts cost ----

TEST(Traffic, TheShuffleMovesWhenItPays) {
  decode::TinyWorld world(timeless());
  const Trace trace = mixed_trace(13, 32, 0, 40, 60);
  TrafficOptions o;
  o.prompt_rows = 4096;  // else slots whose prompt waits hold nothing, and move for nothing
  o.layout = Layout::kContiguous;
  o.tick_seconds = 1;
  o.shuffle = Shuffle::kOff;
  const TrafficResult off = run_traffic(world.engine, trace, o);
  o.shuffle = Shuffle::kOn;
  const TrafficResult on = run_traffic(world.engine, trace, o);
  o.shuffle = Shuffle::kAuto;
  o.seconds_per_row = 1;
  o.seconds_per_byte = 1e-12;
  const TrafficResult cheap = run_traffic(world.engine, trace, o);
  o.seconds_per_row = 1e-12;
  o.seconds_per_byte = 1;
  const TrafficResult dear = run_traffic(world.engine, trace, o);
  // The rows of live requests are the same for all; only dead ones differ.
  EXPECT_EQ(off.rows - off.dead_rows, on.rows);
  EXPECT_GT(off.dead_rows, on.rows / 10);
  EXPECT_EQ(on.dead_rows, 0u);
  EXPECT_EQ(cheap.rows, on.rows);
  EXPECT_EQ(cheap.moved_bytes, on.moved_bytes);
  EXPECT_EQ(dear.moved_bytes, 0u);
  EXPECT_EQ(dear.rows, off.rows);
  // Whole pages are copied, and every byte of them is counted, in the iteration that follows.
  const size_t page = world.engine.pages().layout().page_bytes();
  EXPECT_GT(on.moved_bytes, 0u);
  EXPECT_EQ(on.moved_bytes % page, 0u);
  uint64_t sum = 0;
  for (const auto& tick : on.ticks) sum += tick.moved_bytes;
  EXPECT_EQ(sum, on.moved_bytes);
}

TEST(Traffic, InstancesReadTheWeightsForEveryRequestAlone) {
  decode::TinyWorld world(timeless());
  const Trace trace = mixed_trace(14, 8, 0, 6, 10);
  TrafficOptions o;
  o.scheduler = Scheduler::kInstances;
  o.tick_seconds = 1;
  const TrafficResult result = run_traffic(world.engine, trace, o);
  EXPECT_EQ(result.ticks.size(), size_t(result.tokens));
  for (const auto& tick : result.ticks) EXPECT_EQ(tick.tokens, 1);
}

TEST(Traffic, TheRealClockKeepsOrder) {
  decode::TinyWorld world;
  Trace trace = mixed_trace(15, 12, 0.004, 30, 10);
  trace[6].cancel_after = 0.002;
  for (const Variant& v : kVariants) {
    TrafficOptions o = options_of(v);
    o.tick_seconds = 0;
    o.window_seconds = 0.005;
    size_t told = 0;
    o.on_tick = [&](const TickRecord&) { ++told; };
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(told, result.ticks.size()) << v.name;
    for (size_t i = 0; i < trace.size(); ++i) {
      const RequestRecord& r = result.requests[i];
      if (r.outcome != RequestRecord::kFinished) continue;
      EXPECT_GE(r.admitted, r.arrival) << v.name;
      EXPECT_GT(r.first_token, r.admitted) << v.name;
      EXPECT_GE(r.end, r.first_token) << v.name;
      EXPECT_LE(r.end, result.seconds) << v.name;
    }
    EXPECT_EQ(result.finished + result.cancelled, 12) << v.name;
    EXPECT_EQ(world.engine.pages().referenced(), 0) << v.name;
  }
}

// ---- a long day ----

size_t resident_bytes() {
  size_t total = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%zu %zu", &total, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return resident * size_t(sysconf(_SC_PAGESIZE));
}

TEST(Traffic, SoakLeavesNothingBehind) {
  const bool study = std::getenv("STUDY") != nullptr;
  const int n = study ? 10000 : 600;
  decode::TinyWorld world(timeless(256));
  ArrivalOptions arrivals;
  arrivals.requests = n;
  arrivals.process = ArrivalOptions::kPoisson;
  arrivals.interval = 0.6;
  arrivals.prompt_tokens = {1, 24};
  arrivals.output_tokens = {1, 16};
  arrivals.sampled_share = 0.5;
  arrivals.cancelled_share = 0.3;
  arrivals.cancel_within = 12;
  const Trace trace = make_trace(arrivals, decode::kTinyVocab);
  for (const Variant& v : kVariants) {
    if (v.scheduler != Scheduler::kFused ||
        (v.layout == Layout::kContiguous && v.shuffle != Shuffle::kAuto))
      continue;
    TrafficOptions o = options_of(v);
    o.concurrency = 16;
    o.queue = 8;
    o.tick_seconds = 1;
    size_t half = 0;
    int most_waiting = 0, ticks = 0;
    o.on_tick = [&](const TickRecord& tick) {
      most_waiting = std::max(most_waiting, tick.waiting);
      if (++ticks % 64 == 0 && tick.end > trace.back().arrival / 2 && half == 0)
        half = resident_bytes();
    };
    const TrafficResult result = run_traffic(world.engine, trace, o);
    EXPECT_EQ(result.finished + result.cancelled + result.refused, n) << v.name;
    EXPECT_GT(result.cancelled, n / 10) << v.name;
    EXPECT_GT(result.finished, n / 2) << v.name;
    EXPECT_LE(most_waiting, 8) << v.name;
    EXPECT_EQ(world.engine.pages().referenced(), 0) << v.name;
    EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total()) << v.name;
    for (const auto& r : result.requests) EXPECT_GE(r.end, 0) << v.name;
    // What the records of half the trace take, and no more.
    ASSERT_GT(half, 0u);
    const size_t records = size_t(n) * 600;
    if (!kInstrumented) {
      EXPECT_LT(resident_bytes(), half + records + (size_t(2) << 20)) << v.name;
    }
  }
}

// ---- the measured cost ----

TEST(TickCost, IsLinearBetweenItsPoints) {
  MeasuredCost::Grid grid;
  grid.rows = {1, 2, 4};
  grid.keys = {10, 20};
  grid.seconds = {{1, 2}, {2, 4}, {3, 6}};
  grid.prompts = {{4, 10}, {8, 14}};
  const MeasuredCost cost(grid);
  EXPECT_DOUBLE_EQ(cost(1, 10), 1);
  EXPECT_DOUBLE_EQ(cost(2, 20), 4);
  EXPECT_DOUBLE_EQ(cost(3, 10), 2.5);
  EXPECT_DOUBLE_EQ(cost(1, 15), 1.5);
  EXPECT_DOUBLE_EQ(cost(3, 15), 3.75);
  EXPECT_DOUBLE_EQ(cost(1, 30), 3);      // on beyond
  EXPECT_DOUBLE_EQ(cost(6, 10), 3 + 2);  // two more rows of a prompt
  EXPECT_DOUBLE_EQ(cost(12, 10), 3 + 8);
}

TEST(TickCost, MeasuresWhatASmallPoolHolds) {
  decode::TinyWorld world(timeless(9));
  MeasureOptions options;
  options.rows = 3;
  options.keys = 200;
  options.repeats = 1;
  EXPECT_EQ(measure_tick_cost(world.engine, options).grid().keys.back(), 64);
  options.rows = 9;
  try {
    measure_tick_cost(world.engine, options);
    ADD_FAILURE() << "nine sequences and one that they begin with fit nine pages";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kLimit);
  }
  EXPECT_EQ(world.engine.pages().referenced(), 0);
}

TEST(TickCost, IsMeasuredAndLeavesNothingBehind) {
  decode::TinyWorld world;
  MeasureOptions options;
  options.rows = 5;
  options.prompt_rows = 40;
  options.keys = 70;
  options.repeats = 3;
  int done = 0, total = 0;
  const MeasuredCost cost =
      measure_tick_cost(world.engine, options, [&](int d, int t) { done = d, total = t; });
  EXPECT_EQ(done, total);
  EXPECT_EQ(cost.grid().rows, (std::vector<int>{1, 2, 3, 4, 5}));
  EXPECT_EQ(cost.grid().keys, (std::vector<double>{16, 35, 70}));
  for (const auto& line : cost.grid().seconds) {
    for (const double seconds : line) EXPECT_GT(seconds, 0);
  }
  EXPECT_EQ(cost.grid().prompts.back().first, 40);
  EXPECT_EQ(world.engine.pages().referenced(), 0);
}

}  // namespace
}  // namespace tutti::eval
