// Encoders in the engine: what shares a tick is not seen, nothing is kept, and what an encoder
// cannot do is refused. The numbers themselves are compared with transformers
// (tests/conformance/test_bert.py).
#include "decode/encoder_states.h"

#include <gtest/gtest.h>

#include <boost/system/system_error.hpp>
#include <cmath>

#include "base/error.h"
#include "models/crafted_bert.h"

namespace tutti::decode {
namespace {

using Vectors = std::vector<std::vector<float>>;

struct World {
  explicit World(const models::BertShape& shape = {}, int threads = 1)
      : pool(std::make_shared<ComputePool>(threads)),
        engine(std::make_shared<models::Model>(models::bert_checkpoint(shape),
                                               tensor::Arithmetic::kExactF32, *pool),
               pool, options()) {}
  static engine::EngineOptions options() {
    engine::EngineOptions o;
    o.kv = tensor::KvType::kF32;
    o.pages = 256;
    return o;
  }
  template <class T>
  T run(const std::function<Task<T>(std::shared_ptr<engine::Request>)>& program) {
    T out;
    std::exception_ptr error;
    const auto request = engine.new_request();
    engine.spawn(
        request, [&]() -> Task<void> { out = co_await program(request); },
        [&](std::exception_ptr e) { error = e; });
    engine.run();
    if (error) std::rethrow_exception(error);
    return out;
  }
  Vectors vectors(const std::vector<EncoderInput>& inputs) {
    return run<Vectors>([&](auto request) { return encoder_vectors(engine, request, inputs); });
  }
  Vectors states(const EncoderInput& input) {
    return run<Vectors>([&](auto request) { return encoder_states(engine, request, input); });
  }
  std::vector<float> scores(const std::vector<EncoderInput>& pairs) {
    return run<std::vector<float>>(
        [&](auto request) { return pair_scores(engine, request, pairs); });
  }

  std::shared_ptr<ComputePool> pool;
  engine::Engine engine;
};

EncoderInput input_of(int length, int second = -1) {
  EncoderInput input;
  for (int i = 0; i < length; ++i) input.tokens.push_back((7 * i + length) % 40);
  input.second = second;
  return input;
}

std::vector<EncoderInput> some_inputs() {
  std::vector<EncoderInput> inputs;
  for (const int length : {1, 5, 128, 33, 64, 127, 2, 100, 90, 17}) {
    inputs.push_back(input_of(length));
    if (length > 4) inputs.push_back(input_of(length, length / 2));
  }
  return inputs;
}

TEST(EncoderStates, DoNotDependOnCompanyOrThreads) {
  const std::vector<EncoderInput> inputs = some_inputs();
  World world, other({}, 3);
  const Vectors together = world.vectors(inputs);
  ASSERT_EQ(together.size(), inputs.size());
  EXPECT_EQ(other.vectors(inputs), together);
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(world.vectors({inputs[i]}).front(), together[i]);
    double length = 0;
    for (const float x : together[i]) length += double(x) * double(x);
    EXPECT_NEAR(length, 1, 1e-6);
  }
  EXPECT_NE(together[1], together[2]);  // the kinds of tokens matter
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
}

TEST(EncoderStates, ShareTicks) {
  World world;
  const uint64_t before = world.engine.statistics().ticks;
  world.vectors(std::vector<EncoderInput>(16, input_of(32)));
  EXPECT_EQ(world.engine.statistics().ticks - before, 1u);  // 512 tokens
  world.vectors(std::vector<EncoderInput>(17, input_of(32)));
  EXPECT_EQ(world.engine.statistics().ticks - before, 3u);
}

TEST(EncoderStates, VectorsAreThePooledStates) {
  World world;
  const EncoderInput input = input_of(20, 9);
  const Vectors states = world.states(input);
  ASSERT_EQ(states.size(), 20u);
  std::vector<double> sum(states.front().size());
  for (const auto& state : states)
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += double(state[k]);
  double squares = 0;
  for (const double x : sum) squares += x * x;
  const std::vector<float> vector = world.vectors({input}).front();
  for (size_t k = 0; k < sum.size(); ++k)
    EXPECT_NEAR(double(vector[k]), sum[k] / std::sqrt(squares), 1e-6);
}

TEST(EncoderStates, PairsAreScoredEachForItself) {
  models::BertShape shape;
  shape.labels = 1;
  World world(shape);
  const std::vector<EncoderInput> pairs{input_of(12, 5), input_of(30, 3), input_of(128, 100)};
  const std::vector<float> scores = world.scores(pairs);
  ASSERT_EQ(scores.size(), 3u);
  for (size_t i = 0; i < pairs.size(); ++i) {
    EXPECT_EQ(world.scores({pairs[i]}).front(), scores[i]);
    EXPECT_GT(scores[i], 0.0f);
    EXPECT_LT(scores[i], 1.0f);
  }
  EXPECT_NE(scores[0], scores[1]);
  shape.labels = 2;
  EXPECT_THROW(World(shape).scores(pairs), Error);
  EXPECT_THROW(World().scores(pairs), Error);
}

// What the error of a query says.
std::string refused(World& world, const std::function<void(engine::Row&)>& change) {
  try {
    world.run<engine::Answer>(
        [&](std::shared_ptr<engine::Request> request) -> Task<engine::Answer> {
          engine::Context context(world.engine, request);
          engine::Rows rows;
          engine::Row row(3, 0);
          change(row);
          rows.rows.push_back(row);
          co_return co_await world.engine.forward(context, std::move(rows));
        });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(EncoderStates, WhatAnEncoderCannotDoIsRefused) {
  World world;
  EXPECT_EQ(refused(world, [](engine::Row&) {}), "");
  EXPECT_NE(refused(world, [](engine::Row& r) { r.want.emplace().pick = true; }).find("encoder"),
            std::string::npos);
  EXPECT_NE(refused(world, [](engine::Row& r) { r.position = 128; }).find("position 128"),
            std::string::npos);
  EXPECT_NE(refused(world, [](engine::Row& r) { r.position = -1; }).find("position -1"),
            std::string::npos);
  EXPECT_NE(refused(world, [](engine::Row& r) { r.segment_id = 2; }).find("segment 2"),
            std::string::npos);
  EXPECT_THROW(world.vectors({input_of(3), EncoderInput()}), Error);
  EXPECT_NO_THROW(world.vectors({input_of(128)}));
  EXPECT_THROW(world.vectors({input_of(129)}), Error);
}

// Many texts of one request hold up neither streams beside them nor what came later.
TEST(EncoderStates, TakeTurns) {
  World world;
  int most = 0;
  world.engine.on_tick([&](const engine::TickReport& tick) { most = std::max(most, tick.rows); });
  std::vector<int> ended;
  for (int r = 0; r < 6; ++r) {
    const auto request = world.engine.new_request();
    const int count = r < 5 ? 200 : 1;  // the last one asks for little
    world.engine.spawn(
        request,
        [&world, request, count]() -> Task<void> {
          const std::vector<EncoderInput> inputs(size_t(count), input_of(64));
          co_await encoder_vectors(world.engine, request, inputs);
        },
        [&ended, r](std::exception_ptr error) {
          EXPECT_FALSE(error);
          ended.push_back(r);
        });
  }
  world.engine.run();
  ASSERT_EQ(ended.size(), 6u);
  EXPECT_EQ(ended.front(), 5);
  EXPECT_LE(most, 512 + 2 * 64);
  EXPECT_GE(most, 512);
}

TEST(EncoderStates, ACancelledRequestGivesItsPagesBack) {
  World world;
  const auto request = world.engine.new_request(), other = world.engine.new_request();
  std::exception_ptr error;
  world.engine.spawn(
      request,
      [&]() -> Task<void> {
        const std::vector<EncoderInput> inputs(1000, input_of(128));
        co_await encoder_vectors(world.engine, request, inputs);
      },
      [&](std::exception_ptr e) { error = e; });
  world.engine.spawn(
      other,
      [&]() -> Task<void> {
        co_await encoder_states(world.engine, other, input_of(8));
        world.engine.cancel(*request);
      },
      [](std::exception_ptr) {});
  world.engine.run();
  ASSERT_TRUE(error);
  EXPECT_THROW(std::rethrow_exception(error), boost::system::system_error);
  EXPECT_LT(world.engine.statistics().ticks, 10u);
  EXPECT_EQ(world.engine.pages().free(), world.engine.pages().total());
}

}  // namespace
}  // namespace tutti::decode
