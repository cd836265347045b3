// Cores that go from one engine to another while both stream: never under two forwards, and the
// same tokens.
#include "engine/cores.h"

#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <map>
#include <set>
#include <thread>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

TEST(CoreSplit, RefusesNonsense) {
  EXPECT_THROW(CoreSplit(std::vector<std::vector<int>>()), Error);
  EXPECT_THROW(CoreSplit({{0, 1}, {1}}), Error);
  EXPECT_THROW(CoreSplit(std::vector<std::vector<int>>{{-1}}), Error);
  CoreSplit split({{0}, {1, 2}});
  EXPECT_THROW(split.move(0, 2, 1), Error);
  EXPECT_THROW(split.move(0, 1, 2), Error);
  EXPECT_THROW(split.move(1, 0, -1), Error);
  EXPECT_THROW(split.cores(-1), Error);
}

TEST(CoreSplit, AMoveWaitsForTheForwardAndNoLonger) {
  CoreSplit split({{0}, {1}});
  int woken = 0;
  split.on_cores(0, [&] { ++woken; });
  split.move(1, 0, 1);  // member 1 rests: at once
  EXPECT_EQ(split.begin(0), (std::vector<int>{0, 1}));
  EXPECT_EQ(woken, 1);
  split.end(0);
  split.move(0, 1, 1);
  ASSERT_EQ(split.begin(1), (std::vector<int>{1}));
  split.move(1, 0, 1);  // member 1 computes: after its forward
  EXPECT_EQ(split.cores(0), (std::vector<int>{0, 1}));
  EXPECT_EQ(split.begin(0), (std::vector<int>{0}));
  split.end(0);
  EXPECT_EQ(woken, 1);
  split.end(1);
  EXPECT_EQ(woken, 2);
  EXPECT_EQ(split.begin(0), (std::vector<int>{0, 1}));
  EXPECT_TRUE(split.begin(1).empty());
}

// Against a plain model: a core is owned by one member, computed on by at most one, and arrives
// with the first forward that its new owner starts after the old owner's has ended.
TEST(CoreSplit, RandomMovesKeepCoresDisjoint) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  for (uint32_t run = 0; run < 300; ++run) {
    key.path = run;
    uint32_t draws = 0;
    const auto draw = [&](int n) { return int(draw_word(key, draws++) % uint32_t(n)); };
    CoreSplit split({{0, 1}, {2}, {}, {3, 4, 5}});
    std::map<int, std::set<int>> computing;
    std::vector<std::multiset<int>> owned{{0, 1}, {2}, {}, {3, 4, 5}};
    for (int step = 0; step < 200; ++step) {
      const int member = draw(4), other = draw(4);
      if (computing.contains(member) && draw(2)) {
        split.end(member);
        computing.erase(member);
      } else if (!computing.contains(member) && draw(2)) {
        const auto cores = split.begin(member);
        for (const int core : cores) {
          for (const auto& [who, theirs] : computing) EXPECT_FALSE(theirs.contains(core)) << who;
        }
        // Everything it owns, but what is still under another's forward.
        std::multiset<int> expected;
        for (const int core : owned[size_t(member)]) {
          bool busy = false;
          for (const auto& [who, theirs] : computing) busy = busy || theirs.contains(core);
          if (!busy) expected.insert(core);
        }
        EXPECT_EQ(std::multiset<int>(cores.begin(), cores.end()), expected);
        if (!cores.empty()) computing[member] = {cores.begin(), cores.end()};
      } else if (const int most = int(split.cores(member).size()); most > 0) {
        split.move(member, other, 1 + draw(most));
        for (int m = 0; m < 4; ++m) {
          const auto now = split.cores(m);
          owned[size_t(m)] = {now.begin(), now.end()};
        }
      }
      std::multiset<int> all;
      for (const auto& theirs : owned) all.insert(theirs.begin(), theirs.end());
      ASSERT_EQ(all, (std::multiset<int>{0, 1, 2, 3, 4, 5}));
    }
  }
}

// Two engines, a target and a drafter, stream while the drafter's core goes to and fro.
TEST(CoreSplit, TokensDoNotDependOnTheSplit) {
  const TinyModel tiny = tiny_model(tensor::Type::kQ4_1, tensor::Arithmetic::kExactQ8, 1);
  Engine reference(tiny.model, tiny.pool, small_engine());
  constexpr size_t kTokens = 400;
  const auto expected_target = decode_alone(reference, random_tokens(1, 30), kTokens);
  const auto expected_draft = decode_alone(reference, random_tokens(2, 30), kTokens);

  const auto split = std::make_shared<CoreSplit>(std::vector<std::vector<int>>{{0}, {1}});
  auto target_pool = std::make_shared<ComputePool>(1),
       draft_pool = std::make_shared<ComputePool>(1);
  Engine target(tiny.model, target_pool, small_engine()),
      draft(tiny.model, draft_pool, small_engine());
  target.use_cores(split, 0);
  draft.use_cores(split, 1);
  std::set<int> target_threads;
  int moves = 0;
  bool given = false, pending = false;
  uint64_t late = 0;
  target.on_tick([&](const TickReport& report) {
    target_threads.insert(target_pool->threads());
    // Given: the draft's core is here with the first tick that begins after the draft's forward has
    // ended.
    if (pending && target_pool->threads() != (given ? 2 : 1)) ++late;
    pending = false;
    if (report.tick % 5 == 0) {
      const int from = given ? 0 : 1;
      if (split->cores(from).size() < (given ? 2u : 1u)) return;
      split->move(from, 1 - from, 1);
      given = !given;
      ++moves;
      // When the target gives, its next tick is without; when it takes, it may have to wait for one
      // forward.
      pending = !given;
    }
  });
  std::vector<int32_t> target_text, draft_text;
  std::thread drafting([&] {
    run_programs(draft, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(draft, request);
                   co_await decode_greedily(draft, context, random_tokens(2, 30), kTokens,
                                            draft_text);
                 }});
  });
  run_programs(target, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(target, request);
                 co_await decode_greedily(target, context, random_tokens(1, 30), kTokens,
                                          target_text);
               }});
  if (given) split->move(0, 1, 1);  // so that the draft ends
  drafting.join();
  EXPECT_EQ(target_text, expected_target);
  EXPECT_EQ(draft_text, expected_draft);
  EXPECT_EQ(late, 0u);
  EXPECT_GE(moves, 70);
  EXPECT_EQ(target_threads, (std::set<int>{1, 2}));
}

// The draft's core serves the target from the first tick after the move: the fall-back of parallel
// drafting.
TEST(CoreSplit, AnIdleEnginesCoreArrivesWithinOneTick) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  const auto split = std::make_shared<CoreSplit>(std::vector<std::vector<int>>{{0}, {1}});
  auto pool = std::make_shared<ComputePool>(1);
  Engine watched(tiny.model, pool, small_engine());
  watched.use_cores(split, 0);
  std::vector<int> threads;
  watched.on_tick([&](const TickReport& report) {
    threads.push_back(pool->threads());
    if (report.tick == 3) split->move(1, 0, 1);
    if (report.tick == 6) split->move(0, 1, 1);
  });
  decode_alone(watched, random_tokens(1, 5), 8);
  EXPECT_EQ(threads, (std::vector<int>{1, 1, 1, 2, 2, 2, 1, 1}));
}

// An engine without cores still runs programs and cancels, and goes on when a core comes.
TEST(CoreSplit, AnEngineWithoutCoresWaitsButLives) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  const auto split = std::make_shared<CoreSplit>(std::vector<std::vector<int>>{{0}, {}});
  Engine engine(tiny.model, std::make_shared<ComputePool>(1), small_engine());
  engine.use_cores(split, 1);
  const auto expected = [&] {
    Engine alone(tiny.model, tiny.pool, small_engine());
    return decode_alone(alone, random_tokens(4, 10), 10);
  }();
  const auto victim = engine.new_request(), other = engine.new_request();
  bool cancelled = false;
  std::vector<int32_t> text;
  engine.spawn(
      victim,
      [&]() -> Task<void> {
        Context context(engine, victim);
        co_await decode_greedily(engine, context, random_tokens(3, 10), 10, text);
      },
      [&](std::exception_ptr e) {
        cancelled = e != nullptr;
        EXPECT_EQ(engine.statistics().ticks, 0u);
        split->move(0, 1, 1);  // only now is there something to compute with
      });
  engine.spawn(
      other,
      [&]() -> Task<void> {
        Context context(engine, other);
        co_await decode_greedily(engine, context, random_tokens(4, 10), 10, text);
      },
      [](std::exception_ptr e) { EXPECT_FALSE(e); });
  std::thread away([&] { asio::post(engine.io(), [&] { engine.cancel(*victim); }); });
  engine.run();
  away.join();
  EXPECT_TRUE(cancelled);
  EXPECT_EQ(text, expected);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

}  // namespace
}  // namespace tutti::engine
