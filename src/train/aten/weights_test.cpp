// The weights that are kept in the repository do what their page says.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/files.h"
#include "train/aten/reference_sampler.h"
#include "train/problems.h"

namespace tutti::train {
namespace {

// The share of held-out problems that a folder's model solves, one token per forward.
double solved_share(const std::filesystem::path& folder, const std::string& task, int length,
                    int problems) {
  const models::Checkpoint checkpoint = models::Checkpoint::open(folder);
  const text::Tokenizer tokenizer = text::Tokenizer::from_hf(
      read_file(folder / "tokenizer.json"), read_file(folder / "tokenizer_config.json"));
  const auto source = make_problems(task);
  std::vector<Problem> drawn;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < problems; ++i) {
    drawn.push_back(problem_at(*source, 77, true, uint64_t(i)));  // not the seed of the recipe
    prompts.push_back(tokenizer.encode(drawn.back().prompt));
  }
  SamplerOptions options;
  options.length = length;
  options.block = checkpoint.config().attention_block;
  const auto written =
      reference_sample(checkpoint.config(), models::tensor_weights(checkpoint), prompts, options);
  int solved = 0;
  for (size_t i = 0; i < drawn.size(); ++i) {
    const auto begin = written[i].begin() + ptrdiff_t(prompts[i].size());
    const std::vector<int32_t> answer(begin, std::find(begin, written[i].end(), tokenizer.eos()));
    solved += source->solves(drawn[i], tokenizer.decode(answer));
  }
  return double(solved) / problems;
}

struct Trained {
  const char* folder;
  const char* task;
  int length, problems;
  double least;
};

class Weights : public testing::TestWithParam<Trained> {};

TEST_P(Weights, SolveProblemsTheyHaveNeverSeen) {
  const Trained& t = GetParam();
  const auto folder = std::filesystem::path(TUTTI_SOURCE_DIR) / "weights" / t.folder;
  EXPECT_GE(solved_share(folder, t.task, t.length, t.problems), t.least);
}

// Bounds below what was measured (weights/README.md) by more than chance.
INSTANTIATE_TEST_SUITE_P(Kept, Weights,
                         testing::Values(Trained{"sudoku", "sudoku", 36, 128, 0.9},
                                         Trained{"sudoku-blocks", "sudoku", 36, 128, 0.9},
                                         Trained{"sudoku-shifted", "sudoku", 36, 128, 0.9},
                                         Trained{"addition", "addition", 48, 96, 0.9}),
                         [](const auto& info) {
                           std::string name = info.param.folder;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tutti::train
