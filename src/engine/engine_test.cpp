// The invariants of the engine, with == on bits, on a small random model of the real network.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "base/error.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

using Logits = std::vector<float>;

// Logits after `tokens`, appended in pieces of the given sizes (the rest in one).
Logits logits_after(Engine& engine, const std::vector<int32_t>& tokens,
                    const std::vector<int>& cuts = {}) {
  Logits out;
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 size_t at = 0;
                 for (const int cut : cuts) {
                   co_await engine.forward(
                       context, Rows::append(std::span(tokens).subspan(at, size_t(cut)), int(at),
                                             std::nullopt));
                   at += size_t(cut);
                 }
                 Answer answer = co_await engine.forward(
                     context, Rows::append(std::span(tokens).subspan(at), int(at), want_logits()));
                 out = std::move(answer.rows.back().logits);
               }});
  return out;
}

struct Case {
  tensor::Type type;
  int window;
};

class Invariance : public testing::TestWithParam<Case> {
 protected:
  TinyModel tiny_ = tiny_model(GetParam().type, tensor::Arithmetic::kExactQ8, 1, GetParam().window);
};

INSTANTIATE_TEST_SUITE_P(Models, Invariance,
                         testing::Values(Case{tensor::Type::kF32, 0}, Case{tensor::Type::kQ4_1, 0},
                                         Case{tensor::Type::kQ8_0, 0},
                                         Case{tensor::Type::kQ5_0, 24}));

TEST_P(Invariance, ChunksOfThePromptDoNotMatter) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const auto tokens = random_tokens(1, 100);
  const Logits whole = logits_after(engine, tokens);
  EXPECT_EQ(whole, logits_after(engine, tokens, {1, 1, 1}));
  EXPECT_EQ(whole, logits_after(engine, tokens, {31, 2, 33}));
  EXPECT_EQ(whole, logits_after(engine, tokens, std::vector<int>(99, 1)));
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST_P(Invariance, NeighboursDoNotMatter) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const auto tokens = random_tokens(1, 70);
  const Logits alone = logits_after(engine, tokens);
  Logits together;
  std::vector<TestProgram> programs;
  for (uint32_t s = 0; s < 32; ++s) {
    programs.push_back([&, s](std::shared_ptr<Request> request) -> Task<void> {
      Context context(engine, request);
      const auto own = s == 7 ? tokens : random_tokens(100 + s, 20 + int(s) * 3);
      Answer answer = co_await engine.forward(context, Rows::append(own, 0, want_logits()));
      if (s == 7) together = std::move(answer.rows.back().logits);
    });
  }
  run_programs(engine, programs);
  EXPECT_EQ(alone, together);
}

TEST_P(Invariance, ThreadsDoNotMatter) {
  const TinyModel two =
      tiny_model(GetParam().type, tensor::Arithmetic::kExactQ8, 2, GetParam().window);
  Engine one_engine(tiny_.model, tiny_.pool, small_engine()),
      two_engine(two.model, two.pool, small_engine());
  const auto tokens = random_tokens(3, 90);
  EXPECT_EQ(logits_after(one_engine, tokens), logits_after(two_engine, tokens));
}

TEST_P(Invariance, ForksAndCachedPrefixesDoNotMatter) {
  Engine fresh(tiny_.model, tiny_.pool, small_engine()),
      cached(tiny_.model, tiny_.pool, small_engine(512, true));
  const auto tokens = random_tokens(4, 101);
  const Logits expected = logits_after(fresh, tokens);
  EXPECT_EQ(expected, logits_after(cached, tokens));
  const uint64_t rows = cached.statistics().rows;
  EXPECT_EQ(expected, logits_after(cached, tokens));
  EXPECT_EQ(cached.statistics().rows - rows, 101u - 96u);  // three whole pages were found
  Logits forked, parent;
  run_programs(fresh, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(fresh, request);
                 co_await fresh.forward(context,
                                        Rows::append(std::span(tokens).first(45), 0, std::nullopt));
                 Context child = context.fork();
                 const auto other = random_tokens(5, 30);
                 co_await fresh.forward(context, Rows::append(other, 45, std::nullopt));
                 Answer a = co_await fresh.forward(
                     child, Rows::append(std::span(tokens).subspan(45), 45, want_logits()));
                 forked = std::move(a.rows.back().logits);
                 context.truncate(45);
                 a = co_await fresh.forward(
                     context, Rows::append(std::span(tokens).subspan(45), 45, want_logits()));
                 parent = std::move(a.rows.back().logits);
               }});
  EXPECT_EQ(expected, forked);
  EXPECT_EQ(expected, parent);
  EXPECT_EQ(fresh.pages().free(), fresh.pages().total());
}

TEST_P(Invariance, TreeRowsAndKeptPathsEqualSequences) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const auto prompt = random_tokens(6, 40);
  // A tree below the prompt: 0 - {1 - 3, 2 - 4}; rows 0, 2, 4 are the path that is kept.
  const std::vector<int32_t> tree{11, 22, 33, 44, 55};
  const std::vector<int> parent{-1, 0, 0, 1, 2};
  std::vector<int32_t> path = prompt;
  for (const int node : {0, 2, 4}) path.push_back(tree[size_t(node)]);
  const Logits expected = logits_after(engine, path);
  path.push_back(66);
  const Logits expected_next = logits_after(engine, path);
  Logits leaf, next;
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await engine.forward(context, Rows::append(prompt, 0, std::nullopt));
                 Rows rows;
                 for (int node = 0; node < 5; ++node) {
                   View view{Segment::slots()};
                   std::vector<int> above;
                   for (int up = parent[size_t(node)]; up >= 0; up = parent[size_t(up)])
                     above.insert(above.begin(), up);
                   for (const int up : above) view.push_back(Segment::fresh(up, 1));
                   Row row(tree[size_t(node)], 40 + int(above.size()));
                   row.view = rows.add_view(view);
                   row.want = want_logits();
                   rows.rows.push_back(std::move(row));
                 }
                 Answer answer = co_await engine.forward(context, std::move(rows));
                 leaf = std::move(answer.rows[4].logits);
                 const std::vector<int> kept{0, 2, 4};
                 context.keep(40, kept);
                 const int32_t last = 66;
                 answer =
                     co_await engine.forward(context, Rows::append({&last, 1}, 43, want_logits()));
                 next = std::move(answer.rows.back().logits);
               }});
  EXPECT_EQ(expected, leaf);
  EXPECT_EQ(expected_next, next);
}

TEST(Views, UnwrittenRowsLeaveNothingAndOverwritesShowOnlyLater) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  const auto tokens = random_tokens(8, 40);
  auto changed = tokens;
  changed[20] = (changed[20] + 1) % 96;
  const Logits original = logits_after(engine, tokens);
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await engine.forward(
                     context, Rows::append(std::span(tokens).first(39), 0, std::nullopt));
                 const auto probe = [&](Write write) {
                   Rows rows;
                   rows.rows.emplace_back(tokens[39], 39);
                   rows.rows.back().write = write;
                   rows.rows.back().want = want_logits();
                   return rows;
                 };
                 Answer a = co_await engine.forward(context, probe(Write::none()));
                 EXPECT_EQ(a.rows[0].logits, original);
                 EXPECT_EQ(context.size(), 39);
                 // Slot 20 is overwritten in the same query: the probe still sees the old one.
                 Rows rows = probe(Write::none());
                 Row over(changed[20], 20);
                 over.write = Write::at(20);
                 over.view = rows.add_view({Segment::slots(0, 20)});
                 rows.rows[0].view = rows.add_view({Segment::slots()});
                 rows.rows.push_back(over);
                 a = co_await engine.forward(context, std::move(rows));
                 EXPECT_EQ(a.rows[0].logits, original);
                 a = co_await engine.forward(context, probe(Write::none()));
                 EXPECT_NE(a.rows[0].logits, original);
               }});
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST(Views, RowsThatSeeNothingAndPartialLayers) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 const auto tokens = random_tokens(9, 10);
                 co_await engine.forward(context, Rows::append(tokens, 0, std::nullopt));
                 const auto blind = [&](int neighbours) {
                   Rows rows;
                   const ViewId nothing = rows.add_view({});
                   Row row(5, 3);
                   row.view = nothing;
                   row.sees_self = false;
                   row.write = Write::none();
                   row.want = want_logits();
                   rows.rows.push_back(row);
                   for (int i = 0; i < neighbours;
                        ++i) {  // rows that enter at layer 1 from row 0's state, and head only
                     Row late;
                     late.in.kind = RowInput::kFromRow;
                     late.in.row = 0;
                     late.active = {i % 2 == 0 ? 1 : 2, INT32_MAX};
                     late.position = 4 + i;
                     late.write = Write::none();
                     late.want = want_logits();
                     rows.rows.push_back(late);
                   }
                   return rows;
                 };
                 const Answer alone = co_await engine.forward(context, blind(0));
                 const Answer with = co_await engine.forward(context, blind(2));
                 EXPECT_EQ(alone.rows[0].logits, with.rows[0].logits);
                 EXPECT_EQ(with.rows[2].logits,
                           with.rows[0].logits);  // head only, from the same final state
                 EXPECT_NE(with.rows[1].logits, with.rows[0].logits);
               }});
}

TEST(Scheduler, HalfThePagesGiveTheSameTokens) {
  const TinyModel tiny = tiny_model(tensor::Type::kQ4_1, tensor::Arithmetic::kExactQ8, 1);
  const auto all = [&](int pages, uint64_t& preemptions) {
    Engine engine(tiny.model, tiny.pool, small_engine(pages, true));
    std::vector<std::vector<int32_t>> texts(32);
    std::vector<TestProgram> programs;
    for (uint32_t s = 0; s < 32; ++s) {
      programs.push_back([&, s](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        Answer answer = co_await engine.forward(
            context, Rows::append(random_tokens(200 + s, 70), 0, want_greedy()));
        texts[s].push_back(answer.rows.back().picked.token);
        while (texts[s].size() < 60) {
          const int32_t last = texts[s].back();
          answer = co_await engine.forward(
              context, Rows::append({&last, 1}, context.next_position(), want_greedy()));
          texts[s].push_back(answer.rows.back().picked.token);
        }
      });
    }
    run_programs(engine, programs);
    preemptions = engine.statistics().preemptions;
    engine.prefix_cache().clear();
    EXPECT_EQ(engine.pages().free(), engine.pages().total());
    return texts;
  };
  uint64_t none = 0, some = 0;
  const auto ample = all(1024, none);
  const auto scarce = all(32 * 5 / 2, some);  // 130 slots are 5 pages
  EXPECT_EQ(ample, scarce);
  EXPECT_EQ(none, 0u);
  EXPECT_GT(some, 0u);
}

TEST(Scheduler, TooLargeAQueryIsAnError) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(2));
  EXPECT_THROW(logits_after(engine, random_tokens(1, 100)), Error);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
  EXPECT_EQ(decode_alone(engine, random_tokens(2, 10), 5).size(), 5u);  // and the engine goes on
}

TEST(Scheduler, CancelReturnsAllPages) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  const auto victim = engine.new_request();
  bool ended = false;
  engine.spawn(
      victim,
      [&]() -> Task<void> {
        Context context(engine, victim);
        for (;;)
          co_await engine.forward(
              context, Rows::append(random_tokens(1, 1), context.next_position(), want_greedy()));
      },
      [&](std::exception_ptr e) { ended = e != nullptr; });
  int ticks_after = 0;
  engine.on_tick([&](const TickReport& report) {
    if (report.tick == 50) asio::post(engine.io(), [&] { engine.cancel(*victim); });
    if (report.tick > 50) ++ticks_after;
  });
  engine.run();
  EXPECT_TRUE(ended);
  EXPECT_LE(ticks_after, 1);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

// Each knows what all have come to before any goes on, and they stay together in their ticks.
TEST(Scheduler, AfterOthersComesWhoSaidSo) {
  constexpr int kPrograms = 5, kTokens = 20;
  const TinyModel tiny = tiny_model(tensor::Type::kQ8_0, tensor::Arithmetic::kExactQ8, 1);
  EngineOptions patient = small_engine();
  patient.program_seconds = 60;  // however long a busy machine holds a program up
  Engine engine(tiny.model, tiny.pool, patient);
  int come = 0;
  std::vector<int> seen;
  std::vector<TestProgram> programs;
  for (int p = 0; p < kPrograms; ++p) {
    programs.push_back([&, p](std::shared_ptr<Request> request) -> Task<void> {
      Context context(engine, request);
      const auto prompt = random_tokens(uint32_t(p), 4);
      co_await engine.forward(context, Rows::append(prompt, 0, want_greedy()));
      for (int t = 0; t < kTokens; ++t) {
        ++come;
        if (p % 2 == 0) {
          co_await engine.after_others();
          seen.push_back(come);
        }
        const int32_t token = t;
        co_await engine.forward(context,
                                Rows::append({&token, 1}, context.next_position(), want_greedy()));
      }
    });
  }
  run_programs(engine, programs);
  ASSERT_EQ(seen.size(), size_t(kTokens * 3));
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], kPrograms * (int(i) / 3 + 1)) << i;
  EXPECT_EQ(engine.statistics().ticks, uint64_t(kTokens + 1));
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST(Scheduler, WhoIsCancelledAfterOthersEndsAtItsNextForward) {
  const TinyModel tiny = tiny_model(tensor::Type::kQ8_0, tensor::Arithmetic::kExactQ8, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  bool came_back = false, went_on = false;
  try {
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   asio::post(engine.io(), [&] { engine.cancel(*request); });
                   co_await engine.after_others();
                   came_back = true;
                   const auto prompt = random_tokens(1, 4);
                   co_await engine.forward(context, Rows::append(prompt, 0, want_greedy()));
                   went_on = true;
                 }});
    ADD_FAILURE() << "no error";
  } catch (const boost::system::system_error& e) {
    EXPECT_EQ(e.code(), asio::error::operation_aborted);
  }
  EXPECT_TRUE(came_back);
  EXPECT_FALSE(went_on);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST(Scheduler, NonsenseIsNamed) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine());
  EXPECT_THROW(logits_after(engine, {96}), Error);
  EXPECT_THROW(logits_after(engine, {-1}), Error);
  EXPECT_THROW(logits_after(engine, {}), Error);
}

TEST(Pages, RandomProgramsConserveThem) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(256));
  DrawKey key;
  key.purpose = Purpose::kTest;
  uint32_t draws = 0;
  const auto draw = [&](uint32_t n) { return int(draw_word(key, draws++) % n); };
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 std::vector<Context> contexts;
                 for (int step = 0; step < 3000; ++step) {
                   if (contexts.empty() || (contexts.size() < 6 && draw(4) == 0))
                     contexts.emplace_back(engine, request);
                   Context& c = contexts[size_t(draw(uint32_t(contexts.size())))];
                   switch (draw(6)) {
                     case 0:
                     case 1: {
                       const int n = 1 + draw(40);
                       if (c.size() + n > 200) break;
                       co_await engine.forward(c, Rows::append(random_tokens(uint32_t(step), n),
                                                               c.next_position(), std::nullopt));
                       break;
                     }
                     case 2:
                       if (contexts.size() < 6) contexts.push_back(c.fork());
                       break;
                     case 3:
                       c.truncate(draw(uint32_t(c.size()) + 1));
                       break;
                     case 4: {
                       const int base = draw(uint32_t(c.size()) + 1);
                       std::vector<int> kept;
                       for (int i = 0; i < c.size() - base; ++i) {
                         if (draw(2)) kept.push_back(i);
                       }
                       c.keep(base, kept);
                       break;
                     }
                     case 5:
                       contexts.erase(contexts.begin() + (&c - contexts.data()));
                       break;
                   }
                   EXPECT_EQ(engine.pages().free() + engine.pages().referenced(),
                             engine.pages().total());
                   for (const auto& context : contexts)
                     EXPECT_EQ(context.state().resident, context.size());
                 }
               }});
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

}  // namespace
}  // namespace tutti::engine
