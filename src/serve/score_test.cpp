// The score of a tiny model: what is noted adds up, nothing is noted for nobody, and it is bounded.
#include "serve/score.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "decode/tiny_text.h"

namespace tutti::serve {
namespace {

class ScoreTest : public testing::Test {
 protected:
  ScoreTest() {
    world_.engine.on_tick([this](const engine::TickReport& report) { score_.tick(report); });
  }
  // Runs requests of `tokens` tokens each, side by side, as a Worker would.
  void run(std::initializer_list<int> tokens) {
    for (const int n : tokens) {
      const auto request = world_.engine.new_request();
      decode::GenerationOptions options;
      options.method = "plain";  // a token a tick
      options.max_tokens = n;
      options.ignore_eos = true;
      options.n = 2;
      score_.began(request);
      const auto program = [this, request, options]() -> Task<void> {
        co_await decode::generate(
            world_.engine, world_.tokenizer, request, decode::tiny_prompt(1, 5), options,
            [this, request](const decode::Piece& piece) { score_.wrote(request->id, piece); });
      };
      world_.engine.spawn(request, program, [this, request](std::exception_ptr error) {
        EXPECT_FALSE(error);
        rows_ += request->statistics.rows;
        score_.ended(request->id);
      });
    }
    world_.engine.run();
  }

  decode::TinyWorld world_;
  Score score_{world_.engine};
  uint64_t rows_ = 0;
};

TEST_F(ScoreTest, adds_up) {
  score_.watch(true);
  run({10, 20, 3});
  const Score::Taken taken = score_.take();
  EXPECT_EQ(taken.lost, 0u);
  uint64_t rows = 0, of_parts = 0;
  std::map<std::pair<uint64_t, int>, int> lanes;
  std::vector<uint64_t> ended;
  for (const ScoreTick& tick : taken.ticks) {
    rows += uint64_t(tick.report.rows);
    for (const ScoreTick::Part& part : tick.parts) of_parts += part.rows;
    for (const ScoreTick::Lane& lane : tick.lanes)
      lanes[{lane.request, lane.choice}] += lane.tokens;
    ended.insert(ended.end(), tick.ended.begin(), tick.ended.end());
    EXPECT_EQ(tick.pages, 1024);
    EXPECT_LT(tick.free_pages, 1024);
  }
  EXPECT_EQ(rows, rows_);
  EXPECT_EQ(of_parts, rows_);
  ASSERT_EQ(lanes.size(), 6u);
  std::multiset<int> tokens;
  for (const auto& [lane, count] : lanes) tokens.insert(count);
  EXPECT_EQ(tokens, (std::multiset<int>{3, 3, 10, 10, 20, 20}));
  EXPECT_EQ(ended.size(), 3u);
  EXPECT_TRUE(score_.take().ticks.empty());
}

TEST_F(ScoreTest, nothing_is_noted_for_nobody) {
  run({5});
  EXPECT_TRUE(score_.take().ticks.empty());
  // Who begins to watch does not see what was.
  score_.watch(true);
  run({4});
  uint64_t rows = 0;
  for (const ScoreTick& tick : score_.take().ticks) rows += uint64_t(tick.report.rows);
  EXPECT_GT(rows, 0u);
  EXPECT_LT(rows, rows_);
  score_.watch(false);
  run({4});
  EXPECT_TRUE(score_.take().ticks.empty());
}

TEST_F(ScoreTest, the_oldest_ticks_go_when_nobody_takes_them) {
  score_.watch(true);
  const int more = 90;
  run({int(Score::kMostTicks) + more});
  const Score::Taken taken = score_.take();
  EXPECT_NEAR(double(taken.ticks.size()), double(Score::kMostTicks), 1);
  EXPECT_EQ(taken.ticks.size() + taken.lost, world_.engine.statistics().ticks);
  EXPECT_GE(taken.lost, uint64_t(more) - 1);
  EXPECT_EQ(taken.ticks.back().report.tick, world_.engine.statistics().ticks);
  EXPECT_EQ(score_.take().lost, 0u);
}

TEST_F(ScoreTest, a_canvas_is_cut_to_what_is_shown) {
  score_.watch(true);
  const std::vector<int32_t> tokens(3000, 1);
  decode::CanvasStep step;
  step.choice = 1;
  step.prompt = 1000;
  step.tokens = tokens;
  for (int p = 1000; p < 3000; ++p) step.written.push_back({p, 1, 0.0f});
  score_.wrote(7, step);
  const Score::Taken taken = score_.take();
  ASSERT_EQ(taken.ticks.size(), 1u);
  const ScoreTick::Canvas& canvas = taken.ticks[0].canvases.at(0);
  EXPECT_TRUE(canvas.request == 7 && canvas.choice == 1 && canvas.length == 2000);
  EXPECT_EQ(canvas.positions.size(), Score::kMostPositions);
  EXPECT_EQ(canvas.positions.back(), int(Score::kMostPositions) - 1);
}

}  // namespace
}  // namespace tutti::serve
