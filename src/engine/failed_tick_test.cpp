// A tick that fails: who waits for it is told, and the engine can be run again.
#include <gtest/gtest.h>

#include <boost/asio/use_awaitable.hpp>
#include <functional>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "engine/crossing.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

namespace tutti::engine {
namespace {

// A split that gives its only member a core that no machine has: forwards fail.
std::shared_ptr<CoreSplit> no_such_core() {
  return std::make_shared<CoreSplit>(std::vector<std::vector<int>>{{1 << 20}});
}
std::shared_ptr<CoreSplit> first_core() {
  return std::make_shared<CoreSplit>(std::vector<std::vector<int>>{{0}});
}

std::string said(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

class FailedTick : public testing::Test {
 protected:
  TinyModel tiny_ = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  Engine engine_{tiny_.model, tiny_.pool, small_engine()};
  const std::vector<int32_t> expected_ = decode_alone(engine_, random_tokens(1, 20), 30);

  // A program that decodes, and how it ends.
  void decode(std::vector<int32_t>& text, std::exception_ptr& error, int prompt = 20) {
    const auto request = engine_.new_request();
    engine_.spawn(
        request,
        [this, request, &text, prompt]() -> Task<void> {
          Context context(engine_, request);
          co_await decode_greedily(engine_, context, random_tokens(1, prompt), 30, text);
        },
        [&error](std::exception_ptr e) { error = e; });
  }
};

TEST_F(FailedTick, TellsTheProgramsThatWait) {
  std::vector<int32_t> one, other;
  std::exception_ptr one_error, other_error;
  decode(one, one_error);
  decode(other, other_error);
  // On the engine's thread, in the middle of both.
  engine_.on_tick([this](const TickReport&) {
    engine_.on_tick({});
    engine_.use_cores(no_such_core(), 0);
  });
  EXPECT_NE(said([&] { engine_.run(); }).find("there is no core"), std::string::npos);
  engine_.run();  // the programs hear of it
  EXPECT_EQ(one, std::vector<int32_t>(expected_.begin(), expected_.begin() + 1));
  for (const std::exception_ptr& error : {one_error, other_error}) {
    ASSERT_TRUE(error);
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kSystem);
      EXPECT_EQ(std::string(e.what()),
                "engine: a forward failed (threads: there is no core 1048576)");
    }
  }
  EXPECT_EQ(engine_.pages().free(), engine_.pages().total());
  engine_.use_cores(first_core(), 0);
  EXPECT_EQ(decode_alone(engine_, random_tokens(1, 20), 30), expected_);
}

// A prompt of which a part is read already.
TEST_F(FailedTick, GivesBackThePagesOfAPromptInPieces) {
  std::vector<int32_t> text;
  std::exception_ptr error;
  decode(text, error, 2000);
  engine_.on_tick([this](const TickReport& report) {
    engine_.on_tick({});
    EXPECT_EQ(report.waiting, 1);
    throw std::runtime_error("the listener is at fault");
  });
  EXPECT_EQ(said([&] { engine_.run(); }), "the listener is at fault");
  engine_.run();
  EXPECT_EQ(said([&] { std::rethrow_exception(error); }),
            "engine: a forward failed (the listener is at fault)");
  EXPECT_EQ(engine_.pages().free(), engine_.pages().total());
  EXPECT_EQ(decode_alone(engine_, random_tokens(1, 20), 30), expected_);
}

TEST_F(FailedTick, OfAGuestIsNoReasonForItsHostToEnd) {
  const auto guest =
      std::make_shared<Engine>(tiny_.model, std::make_shared<ComputePool>(1), small_engine());
  engine_.host(guest);
  guest->use_cores(no_such_core(), 0);
  std::string told;
  std::vector<int32_t> text;
  run_programs(engine_, {[&](std::shared_ptr<Request> request) -> Task<void> {
                 Context context(engine_, request);
                 try {
                   co_await on(*guest, [&]() -> Task<void> {
                     Context theirs(*guest, guest->new_request());
                     std::vector<int32_t> out;
                     co_await decode_greedily(*guest, theirs, random_tokens(2, 20), 5, out);
                   });
                 } catch (const Error& e) {
                   told = e.what();
                 }
                 co_await decode_greedily(engine_, context, random_tokens(1, 20), 30, text);
               }});
  EXPECT_NE(told.find("there is no core"), std::string::npos) << told;
  EXPECT_EQ(text, expected_);
  EXPECT_EQ(guest->pages().free(), guest->pages().total());
}

}  // namespace
}  // namespace tutti::engine
