#include "eval/tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/draws.h"
#include "eval/filter_data.h"
#include "models/find_model.h"
#include "models/model.h"
#include "train/sudoku.h"

namespace tutti::eval {
namespace {

// Against the formula's sum, term by term.
TEST(AccuracyUnderParallelism, IsTheWeighedArea) {
  EXPECT_EQ(accuracy_under_parallelism({}), 0);
  EXPECT_DOUBLE_EQ(accuracy_under_parallelism({{1, 80}}), 80);
  // One step at full accuracy: 80 + 80.
  EXPECT_DOUBLE_EQ(accuracy_under_parallelism({{2, 80}, {1, 80}}), 160);
  // More than five points down does not count.
  EXPECT_DOUBLE_EQ(accuracy_under_parallelism({{1, 80}, {2, 80}, {9, 74.9}}), 160);
  const double w = 78 * std::exp(-3 * (1 - 78.0 / 80));
  EXPECT_NEAR(accuracy_under_parallelism({{1, 80}, {3, 78}}), 80 + 0.5 * 2 * (80 + w), 1e-9);
  // The most accurate point need not be the first.
  const double first = 80 * std::exp(-3 * (1 - 80.0 / 90));
  EXPECT_NEAR(accuracy_under_parallelism({{1, 80}, {2, 90}}), 80 + 0.5 * (first + 90), 1e-9);
}

// The trained sudoku model in the engine.
struct Solver {
  Solver()
      : checkpoint(std::make_shared<models::Checkpoint>(
            models::Checkpoint::open(std::string(TUTTI_SOURCE_DIR) + "/weights/sudoku"))),
        pool(std::make_shared<ComputePool>(1)),
        engine(std::make_shared<models::Model>(checkpoint, tensor::Arithmetic::kExactQ8, *pool),
               pool, options()),
        tokenizer(text::Tokenizer::from_hf(checkpoint->folder()->tokenizer().dump(),
                                           checkpoint->folder()->tokenizer_config().dump())) {}
  static engine::EngineOptions options() {
    engine::EngineOptions o;
    o.pages = 512;
    o.program_seconds = 60;  // ticks are counted: slow programs, too, all put down their rows first
    return o;
  }
  std::shared_ptr<models::Checkpoint> checkpoint;
  std::shared_ptr<ComputePool> pool;
  engine::Engine engine;
  text::Tokenizer tokenizer;
};

decode::GenerationOptions method(const std::string& name,
                                 std::map<std::string, std::string> options) {
  decode::GenerationOptions o;
  o.method = name;
  o.method_options = std::move(options);
  return o;
}

TEST(Tasks, SudokuIsSolvedWithFewForwards) {
  Solver solver;
  const train::Sudoku sudoku;
  TaskOptions options;
  options.problems = 48;
  options.tokens = 19;
  const auto run = [&](const decode::GenerationOptions& how, int batch) {
    options.batch = batch;
    return run_task(solver.engine, solver.tokenizer,
                    generated_items(sudoku, solver.tokenizer, options), how, options, {});
  };
  const TaskResult slow = run(method("diffusion", {{"policy", "static"}, {"early_stop", "0"}}), 1);
  EXPECT_GE(slow.accuracy(), 90);
  EXPECT_EQ(slow.forwards, 48u * 19);
  EXPECT_EQ(slow.tokens, 48u * 17);
  const TaskResult together =
      run(method("diffusion", {{"policy", "static"}, {"early_stop", "0"}}), 16);
  const TaskResult free = run(method("freedave", {{"policy", "static"}, {"draft_steps", "8"}}), 4);
  ASSERT_EQ(free.answers.size(), slow.answers.size());
  for (size_t i = 0; i < slow.answers.size(); ++i) {
    EXPECT_EQ(together.answers[i].text, slow.answers[i].text);
    EXPECT_EQ(free.answers[i].text, slow.answers[i].text);
  }
  EXPECT_LT(together.ticks, slow.ticks / 8);
  EXPECT_LT(free.forwards, slow.forwards / 2);
  const TaskResult fast =
      run(method("diffusion", {{"policy", "threshold"}, {"threshold", "0.9"}}), 1);
  EXPECT_LT(fast.forwards, slow.forwards / 2);
  EXPECT_GE(fast.solved, slow.solved - 3);
}

// The oracle's text is the reference's, with fewer forwards; a record per forward of a block.
TEST(FilterData, TheOracleWritesTheReference) {
  Solver solver;
  const train::Sudoku sudoku;
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t i = 0; i < 12; ++i) {
    prompts.push_back(solver.tokenizer.encode(train::problem_at(sudoku, 1, false, i).prompt));
  }
  auto how = method("diffusion", {{"block_length", "8"}});
  how.max_tokens = 19;
  const FilterData data = collect_filter_data(solver.engine, solver.tokenizer, prompts, how, {});
  EXPECT_EQ(data.answers, 12);
  EXPECT_EQ(data.differ, 0);
  EXPECT_EQ(data.static_forwards, 12u * 19);
  EXPECT_LT(data.oracle_forwards, data.static_forwards / 2);
  EXPECT_EQ(data.records.size(), data.oracle_forwards);
  // A filter that accepts nothing leaves the reference sampler's schedule; nothing is as fast as
  // the oracle.
  for (const auto& r : data.records) {
    ASSERT_TRUE(r.probability.size() == 8 || r.probability.size() == 3);
    ASSERT_EQ(r.right.size(), r.probability.size());
  }
}

TEST(ParetoFront, IsWhatNoneBeats) {
  Draws draws(9);
  for (int round = 0; round < 500; ++round) {
    std::vector<std::pair<double, double>> points;
    for (int i = draws.below(12); i >= 0; --i) points.emplace_back(draws.below(6), draws.below(6));
    std::vector<std::pair<double, double>> expected;
    for (const auto& p : points) {
      const bool beaten = std::ranges::any_of(points, [&](const auto& q) {
        return q != p && q.first <= p.first && q.second >= p.second;
      });
      if (!beaten && std::ranges::find(expected, p) == expected.end()) expected.push_back(p);
    }
    std::ranges::sort(expected);
    std::vector<std::pair<double, double>> front;
    for (const size_t i : pareto_front(points)) front.push_back(points[i]);
    EXPECT_EQ(front, expected);
  }
  EXPECT_TRUE(pareto_front({}).empty());
}

}  // namespace
}  // namespace tutti::eval
