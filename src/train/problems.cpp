#include "train/problems.h"

#include "base/error.h"
#include "base/hash.h"
#include "train/addition.h"
#include "train/countdown.h"
#include "train/json_problems.h"
#include "train/sudoku.h"

namespace tutti::train {

bool tenth(const Problem& problem) {
  return xxh64(std::as_bytes(std::span(problem.prompt))) % 10 == 0;
}

Problem problem_at(const ProblemSource& source, uint64_t seed, bool test, uint64_t index) {
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kProblem;
  key.request = test ? 1 : 0;
  key.path = uint32_t(index >> 32);
  key.position = uint32_t(index);
  Draws draws(key);
  for (;;) {
    Problem problem = source.draw(draws);
    if (test ? source.tested(problem) : source.trained(problem)) return problem;
  }
}

std::vector<std::string> problem_names() { return {"sudoku", "addition", "countdown", "json"}; }

std::string problem_list() {
  std::string list;
  for (const std::string& name : problem_names()) list += (list.empty() ? "" : ", ") + name;
  return list;
}

std::unique_ptr<ProblemSource> make_problems(const std::string& name) {
  if (name == "sudoku") return std::make_unique<Sudoku>();
  if (name == "addition") return std::make_unique<Addition>();
  if (name == "countdown") return std::make_unique<Countdown>();
  if (name == "json") return std::make_unique<JsonProblems>();
  throw Error(ErrorKind::kUsage, "problems: no task is named " + name);
}

}  // namespace tutti::train
