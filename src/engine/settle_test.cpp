// Contexts that settle in pages of their caller's: the same bits, wherever they lie.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/draws.h"
#include "base/error.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

std::vector<PageRef> take(Engine& engine, const Request& request, int n) {
  std::vector<PageRef> pages;
  for (int i = 0; i < n; ++i) pages.push_back(engine.take_page(request));
  return pages;
}

// The logits of one token more, which is kept.
Task<std::vector<float>> step(Engine& engine, Context& context, int32_t token) {
  Rows rows;
  rows.rows.emplace_back(token, context.next_position());
  rows.rows.back().want = want_logits();
  Answer answer = co_await engine.forward(context, std::move(rows));
  co_return std::move(answer.rows.front().logits);
}

bool in_area(const Context& context, const std::vector<PageRef>& area) {
  for (int x = 0; x < context.size(); ++x) {
    const auto place = context.state().find(x);
    if (place.page != area[size_t(x / 32)].id() || place.slot != x % 32) return false;
  }
  return true;
}

TEST(Settle, AMovingContextSaysWhatAStillOneSays) {
  for (const auto kv : {tensor::KvType::kF16, tensor::KvType::kF32, tensor::KvType::kI8}) {
    const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
    EngineOptions options = small_engine(64, true);
    options.kv = kv;
    Engine engine(tiny.model, tiny.pool, options);
    run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   const std::vector<PageRef> homes[] = {take(engine, *request, 5),
                                                         take(engine, *request, 5)};
                   Context still(engine, request), moving(engine, request);
                   Draws draws(1);
                   int at = 0;
                   for (int round = 0; round < 12; ++round) {
                     const int n = 1 + draws.below(12);
                     const std::vector<int32_t> tokens = random_tokens(uint32_t(round), n);
                     for (Context* context : {&still, &moving}) {
                       Rows rows = Rows::append(tokens, context->next_position(), std::nullopt);
                       co_await engine.forward(*context, std::move(rows));
                     }
                     if (draws.chance(0.6)) {
                       const int pages = (moving.size() + 31) / 32;
                       const size_t bytes = moving.settle(homes[at]);
                       EXPECT_EQ(bytes, size_t(pages) * engine.pages().layout().page_bytes());
                       at = 1 - at;
                       EXPECT_TRUE(in_area(moving, homes[1 - at]));
                     } else if (draws.chance(0.4)) {
                       const int kept = moving.size() - draws.below(std::min(40, moving.size()));
                       still.truncate(kept);
                       moving.truncate(kept);
                     }
                     const int32_t token = int32_t(draws.below(96));
                     const std::vector<float> a = co_await step(engine, still, token);
                     const std::vector<float> b = co_await step(engine, moving, token);
                     EXPECT_EQ(a, b) << "round " << round;
                     if (!moving.state().area.empty()) {
                       EXPECT_TRUE(in_area(moving, homes[1 - at])) << round;
                     }
                   }
                 }});
  }
}

TEST(Settle, AForkKeepsWhatItSaw) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 const std::vector<PageRef> home = take(engine, *request, 3);
                 Context owner(engine, request), twin(engine, request);
                 owner.settle(home);
                 const std::vector<int32_t> tokens = random_tokens(1, 40);
                 for (Context* context : {&owner, &twin}) {
                   Rows rows = Rows::append(tokens, 0, std::nullopt);
                   co_await engine.forward(*context, std::move(rows));
                 }
                 Context fork = owner.fork();
                 // The owner goes back and writes other tokens: not over what the fork sees.
                 owner.truncate(35);
                 for (int i = 0; i < 5; ++i) co_await step(engine, owner, 7);
                 const std::vector<float> a = co_await step(engine, fork, 3);
                 const std::vector<float> b = co_await step(engine, twin, 3);
                 EXPECT_EQ(a, b);
                 EXPECT_TRUE(fork.state().area.empty());
                 // Nobody may settle where somebody still is.
                 Context other(engine, request);
                 EXPECT_THROW(other.settle(home), Error);
               }});
}

TEST(Settle, AfterEditsItGoesOnElsewhere) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 const std::vector<PageRef> home = take(engine, *request, 6);
                 Context settled(engine, request), twin(engine, request);
                 settled.settle(home);
                 const std::vector<int32_t> tokens = random_tokens(1, 70);
                 for (Context* context : {&settled, &twin}) {
                   Rows rows = Rows::append(tokens, 0, std::nullopt);
                   co_await engine.forward(*context, std::move(rows));
                 }
                 for (Context* context : {&settled, &twin}) {
                   context->drop(3, 32);
                   const std::vector<int> kept{0, 2, 3, 7, 9};
                   context->keep(25, kept);
                 }
                 for (int i = 0; i < 40; ++i) {
                   const std::vector<float> a = co_await step(engine, settled, 5 + i);
                   const std::vector<float> b = co_await step(engine, twin, 5 + i);
                   EXPECT_EQ(a, b) << i;
                 }
               }});
}

TEST(Settle, ADroppedPageIsNotFilledTwice) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 const std::vector<PageRef> home = take(engine, *request, 6);
                 Context settled(engine, request), twin(engine, request);
                 settled.settle(home);
                 const std::vector<int32_t> tokens = random_tokens(1, 100);
                 for (Context* context : {&settled, &twin}) {
                   Rows rows = Rows::append(tokens, 0, std::nullopt);
                   co_await engine.forward(*context, std::move(rows));
                   context->drop(32, 32);
                 }
                 for (int i = 0; i < 40; ++i) {
                   const std::vector<float> a = co_await step(engine, settled, 5 + i);
                   const std::vector<float> b = co_await step(engine, twin, 5 + i);
                   EXPECT_EQ(a, b) << i;
                 }
               }});
}

TEST(Settle, RefusesWhatDoesNotFit) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 const std::vector<PageRef> small = take(engine, *request, 1);
                 Context context(engine, request);
                 const std::vector<int32_t> tokens = random_tokens(1, 40);
                 Rows rows = Rows::append(tokens, 0, std::nullopt);
                 co_await engine.forward(context, std::move(rows));
                 EXPECT_THROW(context.settle(small), Error);
                 context.release();
                 EXPECT_THROW(context.settle(take(engine, *request, 2)), Error);
                 co_await engine.restore(context);
                 context.settle(take(engine, *request, 2));
               }});
  EXPECT_EQ(engine.pages().referenced(), 0);
}

TEST(Settle, PagesOfAnAreaStayOutOfThePrefixCache) {
  const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine(tiny.model, tiny.pool, small_engine(64, true));
  run_programs(engine, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 const std::vector<PageRef> home = take(engine, *request, 3);
                 Context context(engine, request);
                 context.settle(home);
                 const std::vector<int32_t> tokens = random_tokens(1, 80);
                 Rows rows = Rows::append(tokens, 0, std::nullopt);
                 co_await engine.forward(context, std::move(rows));
               }});
  EXPECT_EQ(engine.pages().referenced(), 0);  // the cache would hold two
}

}  // namespace
}  // namespace tutti::engine
