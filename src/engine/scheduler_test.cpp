// What the scheduler promises: fairness, progress, bounded gaps, pages back at once, and numbers
// that add up.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/instrumented.h"
#include "engine/crossing.h"
#include "engine/engine.h"
#include "engine/saved_context.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"
#include "models/find_model.h"

namespace tutti::engine {
namespace {

using Clock = std::chrono::steady_clock;

TinyModel tiny() { return tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1); }

// A prompt of `n` tokens; says so in `done` (by tick) when computed.
TestProgram prompt_of(Engine& engine, uint32_t stream, int n, uint64_t* done = nullptr) {
  return [&engine, stream, n, done](std::shared_ptr<Request> request) -> Task<void> {
    Context context(engine, request);
    co_await engine.forward(context, Rows::append(random_tokens(stream, n), 0, std::nullopt));
    if (done) *done = engine.statistics().ticks;
  };
}

// Runs prompts of the given weights side by side and returns their rows after every tick until one
// has ended.
std::vector<std::vector<double>> progress(const std::vector<double>& weights,
                                          const std::vector<int>& lengths) {
  const TinyModel model = tiny();
  EngineOptions options = small_engine(1024);
  options.max_prompt_rows = 32;
  Engine engine(model.model, model.pool, options);
  std::vector<std::shared_ptr<Request>> requests;
  std::vector<std::vector<double>> seen;
  bool ended = false;
  for (size_t i = 0; i < weights.size(); ++i) {
    requests.push_back(engine.new_request(weights[i]));
    engine.spawn(
        requests.back(),
        [&, i]() -> Task<void> {
          Context context(engine, requests[i]);
          co_await engine.forward(
              context, Rows::append(random_tokens(uint32_t(i), lengths[i]), 0, std::nullopt));
          ended = true;
        },
        [](std::exception_ptr e) { EXPECT_FALSE(e); });
  }
  engine.on_tick([&](const TickReport&) {
    if (ended) return;
    seen.emplace_back();
    for (const auto& request : requests) seen.back().push_back(double(request->statistics.rows));
  });
  engine.run();
  return seen;
}

// However little time programs get, those that the last tick answered are in the next one.
TEST(Streams, StayTogether) {
  constexpr int kStreams = 8, kTokens = 60;
  const TinyModel model = tiny();
  EngineOptions options = small_engine(512);
  options.program_seconds = 1e-9;
  Engine engine(model.model, model.pool, options);
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = 0; i < kStreams; ++i) {
    requests.push_back(engine.new_request());
    engine.spawn(
        requests.back(),
        [&engine, request = requests.back()]() -> Task<void> {
          Context context(engine, request);
          for (int n = 0; n < kTokens; ++n) {
            co_await engine.forward(
                context, Rows::append(random_tokens(1, 1), context.next_position(), want_greedy()));
          }
        },
        [](std::exception_ptr e) { EXPECT_FALSE(e); });
  }
  engine.run();
  EXPECT_LE(engine.statistics().ticks, 2 * kTokens);
}

TEST(Fairness, EqualWeightsProgressAlike) {
  const auto seen = progress({1, 1, 1}, {1500, 1500, 1500});
  for (const auto& rows : seen) {
    const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
    EXPECT_LE(*most - *least, 40);  // a tick's rows and the oldest's minimum
  }
  EXPECT_GT(seen.size(), 100u);
}

TEST(Fairness, WeightsShareInProportion) {
  // Either order: the older one's minimum of 8 rows a tick is below its share here.
  for (const bool heavy_first : {false, true}) {
    const auto seen =
        progress(heavy_first ? std::vector<double>{3, 1} : std::vector<double>{1, 3}, {3000, 3000});
    ASSERT_GT(seen.size(), 80u);
    const auto& last = seen[80];
    const double heavy = last[heavy_first ? 0 : 1], light = last[heavy_first ? 1 : 0];
    EXPECT_NEAR(heavy / light, 3.0, 0.25);
  }
}

TEST(Fairness, NobodySavesUpTurnsWhileAway) {
  const TinyModel model = tiny();
  EngineOptions options = small_engine(1024);
  options.max_prompt_rows = 32;
  Engine engine(model.model, model.pool, options);
  std::shared_ptr<Request> worker = engine.new_request(), sleeper = engine.new_request();
  asio::steady_timer wake(engine.io(), Clock::time_point::max());
  std::vector<double> at_wake, later;
  engine.spawn(
      worker,
      [&]() -> Task<void> {
        Context context(engine, worker);
        co_await engine.forward(context, Rows::append(random_tokens(1, 3000), 0, std::nullopt));
      },
      [](std::exception_ptr) {});
  engine.spawn(
      sleeper,
      [&]() -> Task<void> {
        boost::system::error_code ignored;
        co_await wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        Context context(engine, sleeper);
        co_await engine.forward(context, Rows::append(random_tokens(2, 3000), 0, std::nullopt));
      },
      [](std::exception_ptr) {});
  engine.on_tick([&](const TickReport& report) {
    if (report.tick == 40) wake.cancel();
    if (report.tick == 41)
      at_wake = {double(worker->statistics.rows), double(sleeper->statistics.rows)};
    if (report.tick == 81)
      later = {double(worker->statistics.rows), double(sleeper->statistics.rows)};
  });
  engine.run();
  ASSERT_EQ(later.size(), 2u);
  EXPECT_NEAR(later[0] - at_wake[0], later[1] - at_wake[1], 80);
}

TEST(Scheduler, TheOldestProgressesInEveryTick) {
  const TinyModel model = tiny();
  EngineOptions options = small_engine(1024);
  options.max_prompt_rows = 64;
  Engine engine(model.model, model.pool, options);
  const auto oldest =
      engine.new_request(1e-6);  // its virtual time flies: never its turn by fairness
  bool ended = false;
  engine.spawn(
      oldest,
      [&]() -> Task<void> {
        Context context(engine, oldest);
        co_await engine.forward(context, Rows::append(random_tokens(1, 400), 0, std::nullopt));
        ended = true;
      },
      [](std::exception_ptr) {});
  std::vector<std::shared_ptr<Request>> others;
  for (uint32_t i = 0; i < 6; ++i) {
    others.push_back(engine.new_request());
    engine.spawn(
        others.back(),
        [&, i]() -> Task<void> {
          const TestProgram program = prompt_of(engine, 10 + i, 1200);
          co_await program(others[i]);
        },
        [](std::exception_ptr) {});
  }
  uint64_t before = 0;
  int ticks = 0;
  engine.on_tick([&](const TickReport&) {
    if (ended) return;
    EXPECT_GT(oldest->statistics.rows, before);
    before = oldest->statistics.rows;
    ++ticks;
  });
  engine.run();
  EXPECT_GE(ticks, 40);
}

// A pool of half the demand: all finish, with the tokens of an ample pool.
TEST(Scheduler, TheOldestProgressesWhenPagesAreScarce) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine(12));
  Engine ample(model.model, model.pool, small_engine());
  std::vector<std::vector<int32_t>> texts(6);
  std::vector<std::shared_ptr<Request>> requests;
  std::vector<size_t> ended;
  for (uint32_t i = 0; i < texts.size(); ++i) {
    requests.push_back(engine.new_request());
    engine.spawn(
        requests[i],
        [&, i]() -> Task<void> {
          Context context(engine, requests[i]);
          co_await decode_greedily(engine, context, random_tokens(i, 30), 90, texts[i]);
        },
        [&, i](std::exception_ptr e) {
          EXPECT_FALSE(e);
          ended.push_back(i);
        });
  }
  // In every tick the oldest that is left computes something.
  std::vector<uint64_t> before(texts.size());
  engine.on_tick([&](const TickReport&) {
    const size_t oldest = ended.size();
    if (oldest < requests.size()) {
      EXPECT_GT(requests[oldest]->statistics.rows, before[oldest]);
      before[oldest] = requests[oldest]->statistics.rows;
    }
  });
  engine.run();
  EXPECT_EQ(ended, (std::vector<size_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_GT(engine.statistics().preemptions, 0u);
  for (uint32_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i], decode_alone(ample, random_tokens(i, 30), 90)) << i;
  }
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

// Pages that cannot be recomputed are never taken away; the youngest request that holds such gives
// way, not the oldest.
TEST(Scheduler, PagesThatCannotComeBackYieldToAge) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine(16));
  std::vector<int32_t> old_tokens;
  std::vector<ErrorKind> refused(3, ErrorKind::kUsage);
  std::vector<int> grown(3, 0);
  int holding = 0;
  bool old_done = false;
  const auto oldest = [&](std::shared_ptr<Request> request) -> Task<void> {
    Context context(engine, request);
    co_await engine.forward(context, Rows::append(random_tokens(1, 32), 0, std::nullopt));
    // A row a tick, as the others do: when the long prompt comes, each of them has a query down.
    while (holding < 2)
      co_await engine.forward(context,
                              Rows::append(random_tokens(3, 1), context.size(), want_greedy()));
    context.truncate(32);
    co_await decode_greedily(engine, context, random_tokens(2, 220), 3, old_tokens);
    old_done = true;
  };
  const auto holder = [&](size_t i) {
    return [&, i](std::shared_ptr<Request> request) -> Task<void> {
      Context context(engine, request);
      co_await engine.forward(context,
                              Rows::append(random_tokens(10 + uint32_t(i), 160), 0, std::nullopt));
      context.drop(40, 8);
      EXPECT_FALSE(context.state().reproducible);
      ++holding;
      try {
        for (; !old_done && grown[i] < 1000; ++grown[i]) {
          const int32_t token = 5;
          co_await engine.forward(
              context, Rows::append({&token, 1}, context.next_position(), want_greedy()));
        }
      } catch (const Error& error) {
        refused[i] = error.kind();
      }
    };
  };
  run_programs(engine, {oldest, holder(1), holder(2)});
  EXPECT_EQ(refused[2], ErrorKind::kLimit);  // the youngest
  EXPECT_EQ(refused[1], ErrorKind::kUsage);  // nothing happened to it
  EXPECT_LT(grown[1], 100);
  std::vector<int32_t> alone;
  Engine ample(model.model, model.pool, small_engine());
  run_programs(ample, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(ample, request);
                 co_await ample.forward(context,
                                        Rows::append(random_tokens(1, 32), 0, std::nullopt));
                 co_await decode_greedily(ample, context, random_tokens(2, 220), 3, alone);
               }});
  EXPECT_EQ(old_tokens, alone);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST(Scheduler, WhatSawMoreThanItsTokensServesNobodyElse) {
  const TinyModel model = tiny();
  const auto tokens = random_tokens(1, 70);
  const auto shifted = std::span(tokens).subspan(32);
  const auto run = [&](bool cache, bool before) {
    Engine engine(model.model, model.pool, small_engine(64, cache));
    std::vector<float> logits;
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   if (before) {
                     Context context(engine, request);
                     co_await engine.forward(context, Rows::append(tokens, 0, std::nullopt));
                     context.drop(0, 32);  // slots 32 … stay where they were, and saw what is gone
                     co_await engine.forward(context,
                                             Rows::append(random_tokens(2, 1), 70, std::nullopt));
                   }
                   Context other(engine, request);
                   const Answer answer =
                       co_await engine.forward(other, Rows::append(shifted, 32, want_logits()));
                   logits = answer.rows.back().logits;
                 }});
    return logits;
  };
  EXPECT_EQ(run(true, true), run(false, false));
}

// Rows that saw one another come back in one forward, however small the budget.
TEST(Scheduler, BidirectionalBlocksAreRebuiltWhole) {
  const TinyModel model = tiny();
  const auto run = [&](bool preempt) {
    EngineOptions options = small_engine(64);
    options.max_prompt_rows = 10;
    Engine engine(model.model, model.pool, options);
    std::vector<float> logits;
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await engine.forward(context,
                                           Rows::append(random_tokens(1, 25), 0, std::nullopt));
                   for (int block = 0; block < 2; ++block) {
                     Rows rows;
                     const ViewId all = rows.add_view({Segment::slots(), Segment::fresh()});
                     for (int i = 0; i < 12; ++i) {
                       rows.rows.emplace_back(40 + i + block, 25 + 12 * block + i);
                       rows.rows.back().view = all;
                     }
                     co_await engine.forward(context, std::move(rows));
                   }
                   if (preempt) context.release();
                   const std::vector<int32_t> last{3};
                   const Answer answer =
                       co_await engine.forward(context, Rows::append(last, 49, want_logits()));
                   logits = answer.rows.back().logits;
                 }});
    EXPECT_EQ(engine.statistics().rebuilt_rows, preempt ? 49u : 0u);
    return logits;
  };
  EXPECT_EQ(run(false), run(true));
}

TEST(Scheduler, WhatOthersSawIsNotForgottenUnnoticed) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine(64));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 Rows rows;
                 const ViewId all = rows.add_view({Segment::fresh()});
                 for (int i = 0; i < 8; ++i) {
                   rows.rows.emplace_back(i, i);
                   rows.rows.back().view = all;
                 }
                 co_await engine.forward(context, std::move(rows));
                 Context released = context.fork();
                 released.release();
                 EXPECT_THROW(released.truncate(4), Error);
                 EXPECT_EQ(released.size(), 8);
                 context.truncate(4);
                 EXPECT_FALSE(context.state().reproducible);
                 EXPECT_THROW(context.release(), Error);
               }});
}

TEST(Scheduler, ARepeatedPromptComputesAtMostAPage) {
  const TinyModel model = tiny();
  for (const int length : {1000, 1024, 1025}) {
    Engine engine(model.model, model.pool, small_engine(256, true));
    run_programs(engine, {prompt_of(engine, 1, length)});
    EXPECT_EQ(engine.statistics().rows, uint64_t(length));
    const auto again = run_programs(engine, {prompt_of(engine, 1, length)});
    EXPECT_LE(again[0]->statistics.rows, 32u);
    EXPECT_EQ(engine.statistics().rows, uint64_t(length) + again[0]->statistics.rows);
    EXPECT_EQ(again[0]->statistics.cached_tokens + again[0]->statistics.rows, uint64_t(length));
  }
}

TEST(Scheduler, ATimerHoldsNoTick) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine());
  asio::steady_timer never(engine.io(), std::chrono::hours(1));
  uint64_t ticks = 0;
  bool waited = false;
  std::vector<int32_t> text;
  run_programs(engine,
               {[&](std::shared_ptr<Request> request) -> Task<void> {
                  Context context(engine, request);
                  co_await engine.forward(context,
                                          Rows::append(random_tokens(1, 40), 0, std::nullopt));
                  boost::system::error_code ignored;
                  co_await never.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
                  waited = true;
                },
                [&](std::shared_ptr<Request> request) -> Task<void> {
                  Context context(engine, request);
                  co_await decode_greedily(engine, context, random_tokens(2, 10), 30, text);
                  ticks = engine.statistics().ticks;
                  EXPECT_FALSE(waited);
                  never.cancel();
                }});
  EXPECT_EQ(text.size(), 30u);
  EXPECT_LE(ticks, 31u);
}

// Programs with host work of 150 us each run a few between two ticks, not all.
TEST(Scheduler, HostWorkBetweenTicksIsBounded) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine());
  int since_tick = 0, most = 0;
  std::vector<TestProgram> programs;
  for (uint32_t i = 0; i < 40; ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      Context context(engine, request);
      for (int step = 0; step < 5; ++step) {
        co_await engine.forward(context, Rows::append(random_tokens(i, 1), step, want_greedy()));
        const auto until = Clock::now() + std::chrono::microseconds(150);
        while (Clock::now() < until) {
        }
        if (step < 4) most = std::max(most, ++since_tick);  // after the last step nobody waits
      }
    });
  }
  engine.on_tick([&](const TickReport&) { since_tick = 0; });
  run_programs(engine, programs);
  // Two fit into 200 us; more only when a mean forward takes longer than 10 ms, here when the
  // machine is busy.
  const double mean = engine.statistics().forward_seconds / double(engine.statistics().ticks);
  EXPECT_LE(most, 1 + int(std::ceil(std::max(200e-6, 0.02 * 4 * mean) / 150e-6)));
  EXPECT_LT(most, 40);
}

// Every state that a request can be in when it is cancelled.
TEST(Cancel, ReturnsAllPagesByTheNextTickInEveryState) {
  class Slow : public Network<int, int> {
   public:
    int max_batch() const override { return 1; }
    void check(const int&) const override {}
    std::unique_ptr<NetworkBatch> begin(std::vector<Job>) override {
      class Batch : public NetworkBatch {
        int steps() const override { return 1 << 20; }
        void run(Worker&, int) override {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      };
      return std::make_unique<Batch>();
    }
  };
  enum State {
    kQueued,
    kPrefilling,
    kDecoding,
    kTimer,
    kNetworkWaiting,
    kNetworkRunning,
    kOffloaded,
    kStates
  };
  for (int state = 0; state < kStates; ++state) {
    SCOPED_TRACE(state);
    const TinyModel model = tiny();
    EngineOptions options = small_engine(512);
    options.max_prompt_rows = 16;
    options.network_slot_seconds = 0.001;
    options.program_seconds =
        1;  // what is posted is done before the next tick, however slow the machine
    Engine engine(model.model, model.pool, options);
    const auto network = std::make_shared<Slow>();
    const auto bystander = engine.new_request(), victim = engine.new_request(),
               blocker = engine.new_request();
    bool ended = false, cancelled = false;
    uint64_t cancel_tick = 0;
    int after = -1;
    // Something streams all the while, so that there are ticks to count; it holds pages of its own.
    engine.spawn(
        bystander,
        [&]() -> Task<void> {
          Context context(engine, bystander);
          while (after < 0) {
            co_await engine.forward(
                context, Rows::append(random_tokens(1, 1), context.next_position(), want_greedy()));
            if (context.size() > 30) context.truncate(1);
          }
          engine.cancel(*blocker);
        },
        [](std::exception_ptr) {});
    if (state == kNetworkWaiting) {
      engine.spawn(
          blocker, [&]() -> Task<void> { co_await engine.run(network, blocker, 1); },
          [](std::exception_ptr) {});
    }
    engine.spawn(
        victim,
        [&]() -> Task<void> {
          Context context(engine, victim);
          if (state != kQueued && state != kPrefilling) {
            co_await engine.forward(context, Rows::append(random_tokens(2, 100), 0, std::nullopt));
          }
          Context fork = context.fork();
          switch (state) {
            case kQueued:
            case kPrefilling:
              co_await engine.forward(context,
                                      Rows::append(random_tokens(2, 2000), 0, std::nullopt));
              break;
            case kDecoding:
              for (;;) {
                co_await engine.forward(
                    context,
                    Rows::append(random_tokens(1, 1), context.next_position(), want_greedy()));
              }
            case kTimer: {
              asio::steady_timer timer(engine.io(), std::chrono::hours(1));
              co_await timer.async_wait(asio::use_awaitable);
              break;
            }
            case kNetworkWaiting:
            case kNetworkRunning:
              co_await engine.run(network, victim, 2);
              break;
            case kOffloaded:
              co_await offload(engine, [](std::stop_token token) {
                while (!token.stop_requested())
                  std::this_thread::sleep_for(std::chrono::milliseconds(1));
              });
              break;
          }
        },
        [&](std::exception_ptr e) { ended = e != nullptr; });
    if (state == kQueued) {
      engine.cancel(*victim);  // before its program has run at all
      cancelled = true;
    }
    engine.on_tick([&](const TickReport& report) {
      if (!cancelled && report.tick == 20) {
        asio::post(engine.io(), [&] { engine.cancel(*victim); });
        cancelled = true;
        cancel_tick = report.tick;
        EXPECT_GT(engine.pages().referenced(), 1);
      } else if (cancelled && after < 0 && report.tick >= cancel_tick + 1) {
        after = engine.pages().referenced();
      }
    });
    engine.run();
    EXPECT_TRUE(ended);
    EXPECT_EQ(after, 1);  // the bystander's
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
  }
}

TEST(Lease, TwoEnginesShareCoresByWeightAndKeepTheirTokens) {
  const TinyModel model = tiny_model(tensor::Type::kQ4_1, tensor::Arithmetic::kExactQ8, 1);
  Engine alone(model.model, model.pool, small_engine());
  constexpr size_t kTokens = 900;
  const auto expected_light = decode_alone(alone, random_tokens(1, 30), kTokens);
  const auto expected_heavy = decode_alone(alone, random_tokens(2, 30), kTokens);
  const auto lease = std::make_shared<CoreLease>();
  EngineOptions light_options = small_engine(), heavy_options = small_engine();
  light_options.lease_weight = 1;
  heavy_options.lease_weight = 3;
  Engine light(model.model, std::make_shared<ComputePool>(1), light_options, lease);
  Engine heavy(model.model, std::make_shared<ComputePool>(1), heavy_options, lease);
  std::vector<int32_t> light_text, heavy_text;
  double light_charged = 0, heavy_charged = 0;
  std::mutex mutex;
  const auto decode = [&](Engine& engine, uint32_t stream, std::vector<int32_t>& text) {
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await decode_greedily(engine, context, random_tokens(stream, 30), kTokens,
                                            text);
                   const std::scoped_lock lock(mutex);
                   if (light_charged == 0) {
                     light_charged = lease->charged(0);
                     heavy_charged = lease->charged(1);
                   }
                 }});
  };
  lease->set_hungry(0, true);
  lease->set_hungry(1, true);
  std::thread other([&] { decode(heavy, 2, heavy_text); });
  decode(light, 1, light_text);
  other.join();
  EXPECT_EQ(light_text, expected_light);
  EXPECT_EQ(heavy_text, expected_heavy);
  EXPECT_NEAR(heavy_charged / (light_charged + heavy_charged), 0.75, 0.075);
}

// Ten thousand small programs of every operation a Context has, some cancelled half way, under a
// pool so small that pages are taken away all the time.
TEST(Pages, TenThousandRandomProgramsConserveThem) {
  const TinyModel model = tiny();
  Engine engine(model.model, model.pool, small_engine(24, true));
  DrawKey key;
  key.purpose = Purpose::kTest;
  std::map<std::string, int> refused;
  int ended = 0, cancelled = 0, loads = 0;
  const auto program = [&](std::shared_ptr<Request> request, uint32_t stream) -> Task<void> {
    DrawKey own = key;
    own.path = stream;
    uint32_t draws = 0;
    const auto draw = [&](int n) { return int(draw_word(own, draws++) % uint32_t(n)); };
    std::vector<Context> contexts;
    contexts.emplace_back(engine, request);
    for (int step = 0; step < 8; ++step) {
      Context& c = contexts[size_t(draw(int(contexts.size())))];
      // drop and concat need resident pages; the rest may refuse when entangled slots are away.
      try {
        switch (draw(9)) {
          case 0:
          case 1:
            co_await engine.forward(c, Rows::append(random_tokens(stream % 50, 1 + draw(40)),
                                                    c.next_position(), std::nullopt));
            break;
          case 2: {
            Rows rows;
            const ViewId all = rows.add_view({Segment::slots(), Segment::fresh()});
            for (int i = 0; i < 4; ++i) {
              rows.rows.emplace_back(i, c.next_position() + i);
              if (draw(2)) rows.rows.back().view = all;
              if (draw(4) == 0) rows.rows.back().write = Write::none();
            }
            co_await engine.forward(c, std::move(rows));
            break;
          }
          case 3:
            if (contexts.size() < 3) contexts.push_back(c.fork());
            break;
          case 4:
            c.truncate(draw(c.size() + 1));
            break;
          case 5: {
            const int base = draw(c.size() + 1);
            std::vector<int> kept;
            for (int i = 0; i < c.size() - base; ++i) {
              if (draw(2)) kept.push_back(i);
            }
            c.keep(base, kept);
            break;
          }
          case 6:
            if (c.size() > 0) {
              const int first = draw(c.size());
              c.drop(first, 1 + draw(c.size() - first));
            }
            break;
          case 7: {
            Context fork = c.fork();
            co_await engine.forward(
                fork, Rows::append(random_tokens(3, 5), c.next_position(), std::nullopt));
            c.concat(fork, c.size());
            break;
          }
          case 8: {
            std::vector<std::byte> bytes;
            ContextFile::write(c, [&](std::span<const std::byte> b) {
              bytes.insert(bytes.end(), b.begin(), b.end());
            });
            contexts.push_back(ContextFile::read(engine, request, bytes, "saved"));
            if (contexts.size() > 3) contexts.erase(contexts.begin());
            ++loads;
            break;
          }
        }
      } catch (const Error& e) {
        ++refused[std::string(e.what()).substr(0, 30)];
      }
    }
  };
  const auto check = [&] {
    // Counted by hand: the distinct pages of all live Contexts and the cache are what is not free.
    ASSERT_EQ(engine.pages().free() + engine.pages().referenced(), engine.pages().total());
    std::set<PageId> named;
    for (int page = 0; page < engine.pages().total(); ++page) {
      if (engine.pages().references(page) > 0) named.insert(page);
      ASSERT_GE(engine.pages().references(page), 0);
    }
    ASSERT_EQ(int(named.size()), engine.pages().referenced());
  };
  engine.on_tick([&](const TickReport&) { check(); });
  for (uint32_t wave = 0; wave < 1250; ++wave) {
    std::vector<std::shared_ptr<Request>> requests;
    for (uint32_t i = 0; i < 8; ++i) {
      const auto request = engine.new_request();
      requests.push_back(request);
      engine.spawn(
          request, [&, request, i, wave]() { return program(request, wave * 8 + i); },
          [&](std::exception_ptr e) {
            ++ended;
            if (!e) return;
            try {
              std::rethrow_exception(e);
            } catch (const boost::system::system_error& aborted) {
              EXPECT_EQ(aborted.code(), asio::error::operation_aborted);
              ++cancelled;
            }
          });
    }
    key.position = wave;
    const auto& victim = requests[draw_word(key, 0) % 8];
    if (wave % 2)
      asio::post(engine.io(), [&] { asio::post(engine.io(), [&] { engine.cancel(*victim); }); });
    engine.run();
    // Between waves only the cache holds pages, each once.
    ASSERT_EQ(engine.pages().referenced(), engine.prefix_cache().size()) << wave;
    if (HasFatalFailure()) return;
  }
  engine.prefix_cache().clear();
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
  EXPECT_EQ(ended, 10000);
  for (const auto& [what, count] : refused) std::printf("%6d x %s\n", count, what.c_str());
  std::printf("%d cancelled, %d loaded, %d preempted\n", cancelled, loads,
              int(engine.statistics().preemptions));
  EXPECT_GT(cancelled, 300);
  EXPECT_GT(loads, 2000);
  EXPECT_GT(engine.statistics().preemptions, 300u);
}

TEST(Statistics, RequestsAddUpToTheEngine) {
  const TinyModel model = tiny();
  EngineOptions options = small_engine(30, true);
  Engine engine(model.model, model.pool, options);
  std::vector<TestProgram> programs;
  for (uint32_t i = 0; i < 12; ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      Context context(engine, request);
      std::vector<int32_t> text;
      co_await decode_greedily(engine, context, random_tokens(i % 4, 70), 40, text);
      Context fork = context.fork();
      std::vector<Part> parts;  // two parts of one request are one forward of it
      const std::vector<int32_t> token{4};
      Rows one = Rows::append(token, 110, want_greedy()),
           two = Rows::append(token, 110, want_greedy());
      one.splittable = two.splittable = false;
      parts.emplace_back(context, std::move(one));
      parts.emplace_back(fork, std::move(two));
      co_await engine.forward(std::move(parts));
      engine.count_tokens(*request, 42);
    });
  }
  uint64_t reported_rows = 0, reported_requests = 0;
  engine.on_tick([&](const TickReport& report) {
    reported_rows += uint64_t(report.rows);
    reported_requests += uint64_t(report.requests);
  });
  const auto start = Clock::now();
  const auto requests = run_programs(engine, programs);
  const double wall = std::chrono::duration<double>(Clock::now() - start).count();
  const EngineStatistics& e = engine.statistics();
  RequestStatistics sum;
  for (const auto& request : requests) {
    const RequestStatistics& r = request->statistics;
    sum.forwards += r.forwards;
    sum.rows += r.rows;
    sum.tokens += r.tokens;
    sum.cached_rows += r.cached_rows;
    sum.rebuilt_rows += r.rebuilt_rows;
    sum.preemptions += r.preemptions;
    sum.forward_seconds += r.forward_seconds;
  }
  EXPECT_EQ(sum.rows, e.rows);
  EXPECT_EQ(reported_rows, e.rows);
  EXPECT_EQ(sum.forwards, reported_requests);
  EXPECT_EQ(sum.tokens, e.tokens);
  EXPECT_EQ(e.tokens, 12u * 42u);
  EXPECT_EQ(sum.cached_rows, e.cached_rows);
  EXPECT_EQ(sum.rebuilt_rows, e.rebuilt_rows);
  EXPECT_EQ(sum.preemptions, e.preemptions);
  EXPECT_GT(e.preemptions, 0u);
  EXPECT_GT(e.cached_rows, 0u);
  EXPECT_NEAR(sum.forward_seconds, e.forward_seconds, 1e-6);
  EXPECT_DOUBLE_EQ(e.rows_per_forward(), double(e.rows) / double(e.ticks));
  EXPECT_DOUBLE_EQ(e.tokens_per_forward(), double(e.tokens) / double(e.ticks));
  const double parts = e.program_seconds + e.plan_seconds + e.lease_seconds + e.forward_seconds +
                       e.network_seconds + e.idle_seconds;
  EXPECT_LE(parts, wall);
  EXPECT_GE(parts, 0.8 * wall);
}

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// DESIGN: a long prompt beside streams must not stop them. The real model and the real cost table,
// on one thread, so that a gap can be measured in that thread's own time: what other processes take
// away is not the scheduler's doing. (On an idle machine it is wall time, which is printed beside
// it.) Deep rows are the dear ones: by default only the prompt's last rows are computed, beside
// slots that are there in number but hold copies (computing all takes minutes on a slow core). With
// TUTTI_SLOW_TESTS set all of it is computed.
TEST(Gaps, ALongPromptBesideStreamsAddsAtMost60Milliseconds) {
  if (kInstrumented) GTEST_SKIP() << "a sanitizer's milliseconds are not the program's";
  std::filesystem::path path;
  try {
    path = models::find_model("smollm2");
  } catch (const Error& e) {
    GTEST_SKIP() << "the package with SmolLM2 is not installed: " << e.what();
  }
  const auto pool = std::make_shared<ComputePool>(1);
  const auto checkpoint = std::make_shared<models::Checkpoint>(models::Checkpoint::open(path));
  const auto model =
      std::make_shared<models::Model>(checkpoint, tensor::Arithmetic::kExactQ8, *pool);
  Engine engine(model, pool, small_engine(400));
  const auto vocab = uint32_t(model->config().vocab);
  // The worst gap between two tokens of four streams, while a prompt of `rows` tokens is computed
  // beside them.
  constexpr int kBeside = 64;
  double prompt_seconds = 0, worst_wall = 0;
  const auto worst_gap = [&](int rows) {
    bool begin = rows == 0, prompt_there = false, over = false;
    double worst = 0;
    worst_wall = 0;
    std::vector<TestProgram> programs;
    for (uint32_t s = 0; s < 4; ++s) {
      programs.push_back([&, s](std::shared_ptr<Request> request) -> Task<void> {
        while (!begin) {
          asio::steady_timer soon(engine.io(), std::chrono::milliseconds(1));
          co_await soon.async_wait(asio::use_awaitable);
        }
        Context context(engine, request);
        int32_t last = int32_t(s + 1);
        double before = thread_seconds();
        auto wall_before = Clock::now();
        for (int n = 0; !over; ++n) {
          const Answer answer = co_await engine.forward(
              context, Rows::append({&last, 1}, context.next_position(), want_greedy()));
          last = answer.rows.back().picked.token;
          const double now = thread_seconds();
          const auto wall_now = Clock::now();
          if (prompt_there) {
            worst = std::max(worst, now - before);
            worst_wall =
                std::max(worst_wall, std::chrono::duration<double>(wall_now - wall_before).count());
          }
          before = now;
          wall_before = wall_now;
          if (n == 5) prompt_there = true;
          if (rows == 0 && n == 20) over = true;
        }
      });
    }
    if (rows > 0) {
      programs.push_back([&](std::shared_ptr<Request> request) -> Task<void> {
        const auto tokens = random_tokens(9, rows, vocab);
        const int early = std::getenv("TUTTI_SLOW_TESTS") ? 0 : rows - kBeside;
        Context context(engine, request);
        for (int n = early / 16; n > 0 && context.size() < early; n = context.size()) {
          if (context.size() == 0) {
            co_await engine.forward(
                context, Rows::append(std::span(tokens).first(size_t(n)), 0, std::nullopt));
          } else {
            const Context twice = context.fork();
            context.concat(twice, 0);
          }
        }
        begin = true;
        while (!prompt_there) {
          asio::steady_timer soon(engine.io(), std::chrono::milliseconds(1));
          co_await soon.async_wait(asio::use_awaitable);
        }
        const double start = thread_seconds();
        const auto rest = std::span(tokens).subspan(size_t(early));
        co_await engine.forward(context, Rows::append(rest, early, want_greedy()));
        prompt_seconds = thread_seconds() - start;
        over = true;
      });
    }
    run_programs(engine, programs);
    return worst;
  };
  double alone = 1e9, added = 1e9;
  for (int i = 0; i < 2; ++i) alone = std::min(alone, worst_gap(0));
  for (int i = 0; i < 3 && added > 0.060; ++i) {
    const double beside = worst_gap(4096);
    added = std::min(added, beside - alone);
    std::printf(
        "worst gap alone %.1f ms, beside a prompt of 4096 tokens %.1f ms of the thread's own time "
        "(%.1f ms "
        "wall); the prompt took %.1f s\n",
        alone * 1e3, beside * 1e3, worst_wall * 1e3, prompt_seconds);
  }
  EXPECT_LE(added, 0.060);
}

}  // namespace
}  // namespace tutti::engine
