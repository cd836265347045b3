// A guest engine: its programs and ticks on its host's thread, and the same results.
#include <gtest/gtest.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <thread>

#include "engine/crossing.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

class Host : public testing::Test {
 protected:
  // `n` tokens that the guest writes after a prompt, asked for by a program of the host.
  Task<std::vector<int32_t>> away(uint32_t stream, size_t n) {
    co_return co_await on(*guest_, [this, stream, n]() -> Task<std::vector<int32_t>> {
      threads_.push_back(std::this_thread::get_id());
      Context theirs(*guest_, guest_->new_request());
      std::vector<int32_t> out;
      co_await decode_greedily(*guest_, theirs, random_tokens(stream, 20), n, out);
      co_return out;
    });
  }

  std::shared_ptr<Engine> guest_of(int threads) {
    TinyModel other = tiny_model(tensor::Type::kQ8_0, tensor::Arithmetic::kExactQ8, 1, 0, "llama");
    return std::make_shared<Engine>(
        other.model, threads > 1 ? tiny_.pool : std::make_shared<ComputePool>(1), small_engine());
  }

  TinyModel tiny_ = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 2);
  std::shared_ptr<Engine> guest_ = guest_of(2);
  Engine host_{tiny_.model, tiny_.pool, small_engine()};
  std::vector<std::thread::id> threads_;
};

TEST_F(Host, BothDecodeSideBySideOnOneThread) {
  using namespace asio::experimental::awaitable_operators;
  const auto expected_here = decode_alone(host_, random_tokens(1, 20), 50);
  const auto expected_there = decode_alone(*guest_, random_tokens(2, 20), 50);
  host_.host(guest_);
  std::vector<int32_t> here, there;
  run_programs(host_, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(host_, request);
                 there = co_await (away(2, 50) &&
                                   decode_greedily(host_, context, random_tokens(1, 20), 50, here));
               }});
  EXPECT_EQ(here, expected_here);
  EXPECT_EQ(there, expected_there);
  EXPECT_EQ(threads_, std::vector{std::this_thread::get_id()});
  EXPECT_EQ(guest_->pages().free(), guest_->pages().total());
  EXPECT_EQ(guest_->statistics().ticks, host_.statistics().ticks);  // 50 each: turn by turn
}

// A host that shares its cores takes turns for its guest, too, and the third engine gets its own.
TEST_F(Host, TakesTurnsWithOthersForItsGuest) {
  using namespace asio::experimental::awaitable_operators;
  const auto expected = decode_alone(host_, random_tokens(1, 20), 40);
  const auto lease = std::make_shared<CoreLease>();
  Engine host(tiny_.model, tiny_.pool, small_engine(), lease);
  Engine other(tiny_.model, std::make_shared<ComputePool>(1), small_engine(), lease);
  host.host(guest_);
  std::vector<int32_t> here, there, beside;
  std::thread third([&] {
    run_programs(other, {[&](std::shared_ptr<Request> request) -> Task<void> {
                   Context context(other, request);
                   co_await decode_greedily(other, context, random_tokens(1, 20), 40, beside);
                 }});
  });
  run_programs(host, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(host, request);
                 there = co_await away(2, 20);
                 co_await decode_greedily(host, context, random_tokens(1, 20), 40, here);
               }});
  third.join();
  EXPECT_EQ(here, expected);
  EXPECT_EQ(beside, expected);
  EXPECT_EQ(there.size(), 20u);
  EXPECT_GE(lease->charged(0),
            host.statistics().forward_seconds + guest_->statistics().forward_seconds);
  EXPECT_GT(guest_->statistics().forward_seconds, 0);
}

TEST_F(Host, RunsUntilTheGuestsProgramsHaveEnded) {
  host_.host(guest_);
  std::vector<int32_t> out;
  const auto request = guest_->new_request();
  bool ended = false;
  guest_->spawn(
      request,
      [&]() -> Task<void> {
        Context context(*guest_, request);
        co_await decode_greedily(*guest_, context, random_tokens(3, 20), 30, out);
      },
      [&](std::exception_ptr e) { ended = !e; });
  host_.run();
  EXPECT_TRUE(ended);
  EXPECT_EQ(out.size(), 30u);
}

TEST_F(Host, CancellationReachesTheGuest) {
  host_.host(guest_);
  const auto request = host_.new_request();
  bool cancelled = false;
  host_.spawn(
      request, [&]() -> Task<void> { co_await away(4, 100000); },
      [&](std::exception_ptr e) { cancelled = e != nullptr; });
  guest_->on_tick([&](const TickReport& tick) {
    if (tick.tick == 5) host_.cancel(*request);
  });
  host_.run();
  EXPECT_TRUE(cancelled);
  EXPECT_LE(guest_->statistics().ticks, 7u);
  EXPECT_EQ(guest_->pages().free(), guest_->pages().total());
}

// What programs hold of both engines goes before the engines do, whatever they wait for.
TEST_F(Host, EndsWithProgramsThatWait) {
  const auto held = std::make_shared<int>(0);  // by the programs, as long as they are there
  for (const bool at_guest : {false, true}) {
    const std::shared_ptr<Engine> guest = guest_of(1);
    Engine host(tiny_.model, tiny_.pool, small_engine());
    host.host(guest);
    int ticks = 0;
    (at_guest ? *guest : host).on_tick([&](const TickReport&) {
      if (++ticks == 3) host.stop();
    });
    const auto endless = [&](Engine& engine, std::shared_ptr<Request> request) -> Task<int> {
      const std::shared_ptr<int> mine = held;
      Context context(engine, request);
      std::vector<int32_t> out;
      co_await decode_greedily(engine, context, random_tokens(5, 20), 100000, out);
      co_return 0;
    };
    const auto request = host.new_request();
    host.spawn(
        request,
        [&]() -> Task<void> {
          Context mine(host, request);
          co_await host.forward(mine, Rows::append(random_tokens(1, 40), 0, std::nullopt));
          if (at_guest) {
            co_await on(*guest,
                        [&]() -> Task<int> { return endless(*guest, guest->new_request()); });
          } else {
            co_await endless(host, request);
          }
        },
        [](std::exception_ptr) {});
    host.run();
    EXPECT_EQ(ticks, 3);
    EXPECT_EQ(held.use_count(), 2);
  }
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(Host, KeepsOneValueOfAType) {
  struct Counts {
    int n = 0;
  };
  struct Others {
    int n = 7;
  };
  ++host_.kept<Counts>().n;
  ++host_.kept<Counts>().n;
  EXPECT_EQ(host_.kept<Counts>().n, 2);
  EXPECT_EQ(host_.kept<Others>().n, 7);
  EXPECT_EQ(guest_->kept<Counts>().n, 0);
}

}  // namespace
}  // namespace tutti::engine
