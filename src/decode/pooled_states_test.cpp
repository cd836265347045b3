// Texts as vectors: against their definition on the states of one query, and what long inputs keep
// in memory.
#include "decode/pooled_states.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <boost/system/system_error.hpp>
#include <cmath>

#include "base/instrumented.h"
#include "decode/tiny_text.h"

namespace tutti::decode {
namespace {

using Ids = std::vector<int32_t>;
using Vectors = std::vector<std::vector<float>>;

// Runs one program to its end and throws what it threw.
void run(TinyWorld& world, const std::shared_ptr<engine::Request>& request,
         const std::function<Task<void>()>& program) {
  std::exception_ptr error;
  world.engine.spawn(request, program, [&](std::exception_ptr e) { error = e; });
  world.engine.run();
  if (error) std::rethrow_exception(error);
}

Vectors pooled(TinyWorld& world, const std::vector<Ids>& inputs) {
  Vectors out;
  const auto request = world.engine.new_request();
  run(world, request,
      [&]() -> Task<void> { out = co_await pooled_states(world.engine, request, inputs); });
  return out;
}

// The mean of x / rms(x) * weight over the states of all tokens, of length 1.
std::vector<double> defined(TinyWorld& world, const Ids& tokens) {
  const models::Model& model = world.engine.model();
  std::vector<std::vector<float>> states;
  const auto request = world.engine.new_request();
  run(world, request, [&]() -> Task<void> {
    engine::Context context(world.engine, request);
    engine::Rows rows = engine::Rows::append(tokens, 0, std::nullopt);
    for (engine::Row& row : rows.rows) row.want.emplace().hidden = {model.config().layers};
    engine::Answer answer = co_await world.engine.forward(context, std::move(rows));
    for (engine::RowAnswer& row : answer.rows) states.push_back(std::move(row.hidden.front()));
  });
  const std::vector<float> weight = model.checkpoint().weights().output_norm.floats();
  std::vector<double> mean(weight.size());
  for (const auto& state : states) {
    double squares = double(model.config().norm_eps) * double(state.size());
    for (const float x : state) squares += double(x) * double(x);
    for (size_t i = 0; i < mean.size(); ++i)
      mean[i] += double(state[i]) * double(weight[i]) / std::sqrt(squares / double(state.size())) /
                 double(states.size());
  }
  double length = 0;
  for (const double x : mean) length += x * x;
  for (double& x : mean) x /= std::sqrt(length);
  return mean;
}

TEST(PooledStates, AreTheMeanHoweverLongTheInput) {
  TinyWorld world;
  std::vector<Ids> inputs;
  for (const int length : {1, 40, 512, 513, 1300})
    inputs.push_back(tiny_prompt(uint32_t(length), length));
  const Vectors vectors = pooled(world, inputs);
  ASSERT_EQ(vectors.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(pooled(world, {inputs[i]}).front(), vectors[i]) << inputs[i].size() << " tokens";
    const std::vector<double> expected = defined(world, inputs[i]);
    ASSERT_EQ(vectors[i].size(), expected.size());
    for (size_t k = 0; k < expected.size(); ++k)
      EXPECT_NEAR(double(vectors[i][k]), expected[k], 1e-6) << inputs[i].size() << " tokens";
  }
}

size_t bytes_in_use() {
  const struct mallinfo2 now = ::mallinfo2();
  return now.uordblks + now.hblkhd;
}

// 32 inputs of nearly a context each: their rows and states would be 200 MB.
TEST(PooledStates, PutsLongInputsDownInPieces) {
  if (kInstrumented) GTEST_SKIP() << "a sanitizer keeps memory that was freed";
  TinyWorld world;
  const std::vector<Ids> inputs(32, tiny_prompt(7, 8000));
  const auto request = world.engine.new_request(), watcher = world.engine.new_request();
  std::exception_ptr error, failure;
  const size_t before = bytes_in_use();
  size_t most = before;
  world.engine.spawn(
      request, [&]() -> Task<void> { co_await pooled_states(world.engine, request, inputs); },
      [&](std::exception_ptr e) { error = e; });
  world.engine.spawn(
      watcher,
      [&]() -> Task<void> {
        engine::Context context(world.engine, watcher);
        for (int tick = 0; tick < 4; ++tick) {
          const Ids token{kFirstLetter};
          co_await world.engine.forward(context, engine::Rows::append(token, tick, std::nullopt));
          most = std::max(most, bytes_in_use());
        }
        world.engine.cancel(*request);
      },
      [&](std::exception_ptr e) { failure = e; });
  world.engine.run();
  EXPECT_FALSE(failure);
  ASSERT_TRUE(error);
  EXPECT_THROW(std::rethrow_exception(error), boost::system::system_error);
  EXPECT_LT(most - before, size_t(64) << 20);
  EXPECT_GT(most - before, size_t(1) << 20);  // the rows under way are counted at all
}

}  // namespace
}  // namespace tutti::decode
