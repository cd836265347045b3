// Contexts whose slots later rows see through a softmax class (Context::weigh).
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "engine/dense_oracle.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"
#include "formats/temporary_folder.h"

namespace tutti::engine {
namespace {

constexpr tensor::SoftmaxClass kSharp{1.25f, 0.7f}, kFlat{0.5f, 1.3f};

class Weighed : public testing::TestWithParam<int> {
 protected:
  Weighed() : tiny_(tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactQ8, 1, GetParam())) {}

  // Logits of each of `tokens`, appended at once or a row at a time.
  static Task<std::vector<std::vector<float>>> logits(Engine& engine, Context& context,
                                                      std::vector<int32_t> tokens,
                                                      bool one_by_one) {
    std::vector<std::vector<float>> out;
    const size_t step = one_by_one ? 1 : tokens.size();
    for (size_t at = 0; at < tokens.size(); at += step) {
      Rows rows =
          Rows::append(std::span(tokens).subspan(at, step), context.next_position(), want_logits());
      for (Row& row : rows.rows) row.want = want_logits();
      Answer answer = co_await engine.forward(context, std::move(rows));
      for (auto& row : answer.rows) out.push_back(std::move(row.logits));
    }
    co_return out;
  }

  TinyModel tiny_;
};

// Slots [20, 70) through one class, [70, 80) through another: against Views that say so row by row.
TEST_P(Weighed, CausalRowsSeeWhatAnExplicitViewNames) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  std::vector<std::vector<float>> expected;
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        co_await engine.forward(context, Rows::append(random_tokens(1, 70), 0, std::nullopt));
        {
          Rows rows = Rows::append(random_tokens(2, 10), 70, std::nullopt);
          rows.splittable = false;
          rows.classes = {{}, kSharp};
          const ViewId view = rows.add_view(
              {Segment::slots(0, 20), Segment::slots(20, 50, 1), Segment::fresh(0, -1, true)});
          for (Row& row : rows.rows) row.view = view;
          co_await engine.forward(context, std::move(rows));
        }
        for (const int32_t token : random_tokens(3, 40)) {
          Rows rows = Rows::append({&token, 1}, context.next_position(), want_logits());
          rows.splittable = false;
          rows.classes = {{}, kSharp, kFlat};
          rows.rows[0].view = rows.add_view({Segment::slots(0, 20), Segment::slots(20, 50, 1),
                                             Segment::slots(70, 10, 2), Segment::slots(80, -1),
                                             Segment::fresh(0, -1, true)});
          const Answer answer = co_await engine.forward(context, std::move(rows));
          expected.push_back(answer.rows[0].logits);
        }
      }});
  const auto build = [&](std::shared_ptr<Request> request) -> Task<Context> {
    Context context(engine, request);
    co_await engine.forward(context, Rows::append(random_tokens(1, 70), 0, std::nullopt));
    context.weigh(20, kSharp);
    co_await engine.forward(context, Rows::append(random_tokens(2, 10), 70, std::nullopt));
    context.weigh(70, kFlat);
    co_return context;
  };
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context = co_await build(request);
                 Context fork = context.fork();
                 EXPECT_EQ(co_await logits(engine, context, random_tokens(3, 40), true), expected);
                 EXPECT_EQ(co_await logits(engine, fork, random_tokens(3, 40), false), expected);
                 // Recomputed from the recipe, the next row sees the same.
                 const std::vector<int32_t> next = random_tokens(4, 3);
                 const auto there = co_await logits(engine, fork, next, false);
                 context.release();
                 EXPECT_EQ(co_await logits(engine, context, next, false), there);
                 // Back to before the weighed slots, rows see plainly again.
                 context.truncate(20);
                 const std::vector<int32_t> stem = random_tokens(1, 70);
                 Context plain(engine, request);
                 co_await engine.forward(plain,
                                         Rows::append(std::span(stem).first(20), 0, std::nullopt));
                 EXPECT_EQ(co_await logits(engine, context, next, false),
                           co_await logits(engine, plain, next, false));
               }});
}

TEST_P(Weighed, RowsOfViewsSeeItToo) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine, request);
                 co_await engine.forward(context,
                                         Rows::append(random_tokens(1, 50), 0, std::nullopt));
                 context.weigh(10, kSharp);
                 Context fork = context.fork();
                 const auto causal = co_await logits(engine, context, random_tokens(2, 1), true);
                 Rows rows = Rows::append(random_tokens(2, 1), 50, want_logits());
                 rows.splittable = false;
                 rows.rows[0].view = rows.add_view({Segment::slots(), Segment::fresh(0, -1, true)});
                 const Answer answer = co_await engine.forward(fork, std::move(rows));
                 EXPECT_EQ(answer.rows[0].logits, causal[0]);
               }});
}

// What stands behind weighed slots is neither given to others by the prefix cache nor taken from
// it.
TEST_P(Weighed, ThePrefixCacheKeepsOut) {
  const auto tokens = random_tokens(1, 64), rest = random_tokens(2, 70), last = random_tokens(3, 1);
  const auto run = [&](Engine& engine, bool weighed, std::vector<std::vector<float>>& out) {
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(engine, request);
                   co_await engine.forward(context, Rows::append(tokens, 0, std::nullopt));
                   if (weighed) context.weigh(32, kSharp);
                   co_await engine.forward(context, Rows::append(rest, 64, std::nullopt));
                   out = co_await logits(engine, context, last, true);
                 }});
  };
  std::vector<std::vector<float>> plain, weighed, again;
  Engine apart(tiny_.model, tiny_.pool, small_engine());
  run(apart, false, plain);
  run(apart, true, weighed);
  ASSERT_NE(plain, weighed);
  for (const bool first : {false, true}) {
    Engine cached(tiny_.model, tiny_.pool, small_engine(512, true));
    for (const bool which : {first, !first, first}) {
      run(cached, which, again);
      EXPECT_EQ(again, which ? weighed : plain) << which << " after " << first;
    }
    EXPECT_GT(cached.statistics().cached_rows, 0u);
  }
}

TEST_P(Weighed, AFileKeepsIt) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const formats::TemporaryFolder folder;
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        co_await engine.forward(context, Rows::append(random_tokens(1, 50), 0, std::nullopt));
        context.weigh(10, kSharp);
        co_await engine.forward(context, Rows::append(random_tokens(2, 20), 50, std::nullopt));
        context.save(folder.path() / "x");
        Context loaded = Context::load(engine, request, folder.path() / "x");
        const auto next = random_tokens(3, 4);
        const auto expected = co_await logits(engine, context, next, true);
        EXPECT_EQ(co_await logits(engine, loaded, next, true), expected);
        loaded.truncate(70);
        loaded.release();
        EXPECT_EQ(co_await logits(engine, loaded, next, true), expected);
      }});
}

// Slots that go take their weight along, the others keep theirs.
TEST_P(Weighed, SlotsKeepTheirClassWhenOthersGo) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        const auto weighed_of = [](const Context& c) {
          std::vector<int> numbers;
          for (const auto& w : c.state().weighed)
            numbers.insert(numbers.end(), {w.first, w.count, w.softmax_class});
          return numbers;
        };
        Context context(engine, request);
        co_await engine.forward(context, Rows::append(random_tokens(1, 30), 0, std::nullopt));
        context.weigh(10, kSharp);
        co_await engine.forward(context, Rows::append(random_tokens(2, 10), 30, std::nullopt));
        context.weigh(35, kFlat);
        co_await engine.forward(context, Rows::append(random_tokens(3, 5), 40, std::nullopt));
        EXPECT_EQ(weighed_of(context), (std::vector<int>{10, 20, 1, 35, 5, 2}));
        Context cut = context.fork();
        cut.truncate(37);
        EXPECT_EQ(weighed_of(cut), (std::vector<int>{10, 20, 1, 35, 2, 2}));
        cut.truncate(10);
        EXPECT_EQ(weighed_of(cut), (std::vector<int>{}));
        context.drop(5, 10);  // slots 5..14
        EXPECT_EQ(weighed_of(context), (std::vector<int>{5, 15, 1, 25, 5, 2}));
        const std::vector<int> kept{0, 3};  // of slots 20..34: 20 and 23
        context.keep(20, kept);
        EXPECT_EQ(weighed_of(context), (std::vector<int>{5, 15, 1}));
      }});
}

// Want::mass against sums of the oracle's weights, of rows beside each other, weighed or not.
TEST_P(Weighed, MassIsTheShareOfAttention) {
  const TinyModel tiny =
      tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 2, GetParam());
  const DenseOracle oracle(tiny.model->checkpoint());
  EngineOptions options = small_engine();
  options.kv = tensor::KvType::kF32;
  Engine engine(tiny.model, tiny.pool, options);
  const std::vector<Want::SlotRange> ranges{{0, 20}, {20, 50}, {70, 0}, {15, 60}, {79, 1}};
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        DenseOracle::Slots slots, made;
        const Rows first = Rows::append(random_tokens(1, 80), 0, std::nullopt);
        oracle.forward({}, {}, first, slots);
        co_await engine.forward(context, first);
        for (const bool weighed : {false, true}) {
          if (weighed) {
            context.truncate(70);
            context.weigh(20, kSharp);
            co_await engine.forward(context, Rows::append(random_tokens(2, 10), 70, std::nullopt));
            slots.resize(70);
            Rows more = Rows::append(random_tokens(2, 10), 70, std::nullopt);
            more.classes = {{}, kSharp};
            const ViewId view = more.add_view(
                {Segment::slots(0, 20), Segment::slots(20, -1, 1), Segment::fresh(0, -1, true)});
            for (Row& row : more.rows) row.view = view;
            oracle.forward(slots, {}, more, made);
            slots.insert(slots.end(), made.begin(), made.end());
          }
          Rows rows = Rows::append(random_tokens(3, 4), 80, std::nullopt);
          Rows same = rows;
          if (weighed) {
            same.classes = {{}, kSharp};
            const ViewId view =
                same.add_view({Segment::slots(0, 20), Segment::slots(20, 50, 1),
                               Segment::slots(70, -1), Segment::fresh(0, -1, true)});
            for (Row& row : same.rows) row.view = view;
          }
          for (size_t i : {1, 3}) {
            rows.rows[i].want.emplace();
            rows.rows[i].want->mass = ranges;
          }
          const auto expected = oracle.forward(slots, {}, same, made);
          Context fork = context.fork();
          const Answer answer = co_await engine.forward(fork, std::move(rows));
          EXPECT_TRUE(answer.rows[0].mass.empty());
          double total = 0;
          for (size_t i : {1, 3}) {
            EXPECT_EQ(answer.rows[i].mass.size(), expected[i].shares.size());
            for (size_t l = 0; l < expected[i].shares.size(); ++l) {
              for (size_t r = 0; r < ranges.size(); ++r) {
                double sum = 0;
                for (int s = ranges[r].first; s < ranges[r].first + ranges[r].count; ++s) {
                  sum += expected[i].shares[l][size_t(s)];
                }
                EXPECT_NEAR(double(answer.rows[i].mass[l][r]), sum, 2e-5) << l << " " << r;
                total += sum;
              }
            }
          }
          EXPECT_GT(total, 1.0);
        }
        Rows bad = Rows::append(random_tokens(3, 1), 80, std::nullopt);
        bad.rows[0].want.emplace();
        bad.rows[0].want->mass = {{70, 11}};
        bool refused = false;
        try {
          co_await engine.forward(context, std::move(bad));
        } catch (const Error&) {
          refused = true;
        }
        EXPECT_TRUE(refused);
      }});
}

TEST_P(Weighed, WhatMakesNoSenseIsRefused) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  run_programs(
      engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
        Context context(engine, request);
        co_await engine.forward(context, Rows::append(random_tokens(1, 30), 0, std::nullopt));
        EXPECT_THROW(context.weigh(31, kSharp), Error);
        EXPECT_THROW(context.weigh(-1, kSharp), Error);
        context.weigh(30, kSharp);        // no slot
        context.weigh(20, {1.0f, 1.0f});  // ordinary
        EXPECT_TRUE(context.state().weighed.empty());
        context.weigh(20, kSharp);
        EXPECT_THROW(context.weigh(25, kFlat), Error);
        Context other(engine, request);
        EXPECT_THROW(other.concat(context, 0), Error);
        Rows rows = Rows::append(random_tokens(2, 1), 30, want_logits());
        rows.classes = {kFlat};
        bool refused = false;
        try {
          co_await engine.forward(context, std::move(rows));
        } catch (const Error&) {
          refused = true;
        }
        EXPECT_TRUE(refused);
        for (int i = 1; i < tensor::kMaxSoftmaxClasses - 1; ++i) {
          co_await engine.forward(context, Rows::append(random_tokens(2, 1), 29 + i, std::nullopt));
          context.weigh(29 + i, {1.0f + 0.1f * float(i), 1.0f});
        }
        co_await engine.forward(context, Rows::append(random_tokens(2, 1), 40, std::nullopt));
        EXPECT_THROW(context.weigh(context.size() - 1, kFlat), Error);
        context.weigh(context.size() - 1, kSharp);  // a class that is in use already
      }});
}

INSTANTIATE_TEST_SUITE_P(Windows, Weighed, testing::Values(0, 48));

}  // namespace
}  // namespace tutti::engine
