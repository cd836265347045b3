// Between engines and threads: values, exceptions and cancellations cross, and everybody stays on
// his own thread.
#include "engine/crossing.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <string>
#include <thread>

#include "base/error.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

using namespace std::chrono_literals;

// A second engine that serves on its own thread.
class Served {
 public:
  explicit Served(const TinyModel& tiny)
      : engine(tiny.model, std::make_shared<ComputePool>(1), small_engine()), thread_([this] {
          id = std::this_thread::get_id();
          engine.serve();
        }) {}
  ~Served() { end(); }
  void end() {
    if (!thread_.joinable()) return;
    engine.stop();
    thread_.join();
  }
  Engine engine;
  std::thread::id id;

 private:
  std::thread thread_;
};

class Crossing : public testing::Test {
 protected:
  TinyModel tiny_ = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine_{tiny_.model, tiny_.pool, small_engine()};
};

TEST_F(Crossing, TwoEnginesDecodeSideBySideInOneProgram) {
  using namespace asio::experimental::awaitable_operators;
  const auto expected_here = decode_alone(engine_, random_tokens(1, 20), 50);
  const auto expected_there = decode_alone(engine_, random_tokens(2, 20), 50);
  Served other(tiny_);
  std::vector<int32_t> here, there;
  std::thread::id ran_on, back_on;
  run_programs(engine_, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine_, request);
                 auto away = on(other.engine, [&]() -> Task<std::vector<int32_t>> {
                   ran_on = std::this_thread::get_id();
                   Context theirs(other.engine, other.engine.new_request());
                   std::vector<int32_t> out;
                   co_await decode_greedily(other.engine, theirs, random_tokens(2, 20), 50, out);
                   co_return out;
                 });
                 there =
                     co_await (std::move(away) &&
                               decode_greedily(engine_, context, random_tokens(1, 20), 50, here));
                 back_on = std::this_thread::get_id();
               }});
  other.end();
  EXPECT_EQ(here, expected_here);
  EXPECT_EQ(there, expected_there);
  EXPECT_EQ(ran_on, other.id);
  EXPECT_EQ(back_on, std::this_thread::get_id());
  EXPECT_EQ(other.engine.pages().free(), other.engine.pages().total());
}

TEST_F(Crossing, ManyCrossingsBothWays) {
  Served other(tiny_);
  int sum = 0;
  run_programs(engine_, {[&](std::shared_ptr<Request>) -> Task<void> {
                 for (int i = 0; i < 500; ++i) {
                   sum += co_await on(other.engine, [&, i]() -> Task<int> {
                     co_return co_await on(engine_, [i]() -> Task<int> { co_return i; });
                   });
                 }
               }});
  EXPECT_EQ(sum, 500 * 499 / 2);
}

TEST_F(Crossing, ExceptionsComeBack) {
  Served other(tiny_);
  std::string said;
  run_programs(engine_, {[&](std::shared_ptr<Request>) -> Task<void> {
                 try {
                   co_await on(other.engine, [&]() -> Task<void> {
                     Context theirs(other.engine, other.engine.new_request());
                     const std::vector<int32_t> unknown{999};
                     co_await other.engine.forward(theirs, Rows::append(unknown, 0, std::nullopt));
                   });
                 } catch (const Error& e) {
                   said = e.what();
                 }
               }});
  EXPECT_NE(said.find("token 999"), std::string::npos) << said;
}

TEST_F(Crossing, CancellationPassesThroughAndFreesTheOtherEnginesPages) {
  Served other(tiny_);
  const auto request = engine_.new_request();
  std::atomic<int> held{0};
  std::atomic<bool> there_ended{false};
  bool ended = false, order = false;
  engine_.spawn(
      request,
      [&]() -> Task<void> {
        Context mine(engine_, request);
        co_await engine_.forward(mine, Rows::append(random_tokens(1, 40), 0, std::nullopt));
        co_await on(other.engine, [&]() -> Task<int> {
          struct End {
            std::atomic<bool>& flag;
            ~End() { flag = true; }
          } end{there_ended};
          Context theirs(other.engine, other.engine.new_request());
          for (;;) {
            const std::vector<int32_t> token{1};
            co_await other.engine.forward(
                theirs, Rows::append(token, theirs.next_position() % 64, want_greedy()));
            held = other.engine.pages().referenced();
            if (theirs.size() > 64) theirs.truncate(1);
          }
        });
      },
      [&](std::exception_ptr e) {
        ended = e != nullptr;
        order = there_ended;
      });
  std::thread canceller([&] {
    while (held == 0) std::this_thread::sleep_for(1ms);
    asio::post(engine_.io(), [&] { engine_.cancel(*request); });
  });
  engine_.run();
  canceller.join();
  other.end();
  EXPECT_TRUE(ended);
  EXPECT_TRUE(order);  // the caller goes on when the program there has ended
  EXPECT_EQ(other.engine.pages().free(), other.engine.pages().total());
  EXPECT_EQ(engine_.pages().free(), engine_.pages().total());
}

TEST_F(Crossing, OffloadRunsElsewhereAndComesBack) {
  std::thread::id elsewhere, back;
  int value = 0;
  std::string said;
  run_programs(engine_, {[&](std::shared_ptr<Request>) -> Task<void> {
                 value = co_await offload(engine_, [&] {
                   elsewhere = std::this_thread::get_id();
                   return 42;
                 });
                 back = std::this_thread::get_id();
                 try {
                   co_await offload(
                       engine_, [] { throw Error(ErrorKind::kNotFound, "tool: no such thing"); });
                 } catch (const Error& e) {
                   said = e.what();
                 }
               }});
  EXPECT_EQ(value, 42);
  EXPECT_NE(elsewhere, std::this_thread::get_id());
  EXPECT_EQ(back, std::this_thread::get_id());
  EXPECT_EQ(said, "tool: no such thing");
}

TEST_F(Crossing, TicksGoOnBesideOffloadedWork) {
  std::atomic<bool> release{false};
  std::vector<int32_t> text;
  run_programs(engine_,
               {[&](std::shared_ptr<Request>) -> Task<void> {
                  co_await offload(engine_, [&release] {
                    while (!release) std::this_thread::sleep_for(1ms);
                  });
                },
                [&](std::shared_ptr<Request> request) -> Task<void> {
                  Context context(engine_, request);
                  co_await decode_greedily(engine_, context, random_tokens(1, 5), 50, text);
                  release = true;  // held until the stream is through: it would never end otherwise
                }});
  EXPECT_EQ(text.size(), 50u);
}

TEST_F(Crossing, ACancelledOffloadIsLeftBehindAndTold) {
  const auto request = engine_.new_request();
  auto told = std::make_shared<std::atomic<bool>>(false);
  bool ended = false;
  int pages = -1;
  engine_.spawn(
      request,
      [&]() -> Task<void> {
        Context context(engine_, request);
        co_await engine_.forward(context, Rows::append(random_tokens(1, 40), 0, std::nullopt));
        co_await offload(engine_, [told](std::stop_token token) {
          while (!token.stop_requested()) std::this_thread::sleep_for(1ms);
          std::this_thread::sleep_for(50ms);
          *told = true;
        });
      },
      [&](std::exception_ptr e) {
        ended = e != nullptr;
        pages = engine_.pages().referenced();
        EXPECT_FALSE(*told);  // the caller does not wait for the work
      });
  asio::steady_timer timer(engine_.io(), 10ms);
  timer.async_wait([&](auto) { engine_.cancel(*request); });
  engine_.run();
  EXPECT_TRUE(ended);
  EXPECT_EQ(pages, 0);
}

}  // namespace
}  // namespace tutti::engine
