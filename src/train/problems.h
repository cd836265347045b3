// Tasks with checkable answers, drawn without end from a seed: what tiny models are trained on. A
// share of each is held out by content and never trained.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/draws.h"

namespace tutti::train {

struct Problem {
  std::string prompt, answer;  // the model reads prompt + answer + end token
};

class ProblemSource {
 public:
  virtual ~ProblemSource() = default;
  virtual Problem draw(Draws& draws) const = 0;
  // Whether a problem may be trained on, and whether it belongs to the test set. Never both;
  // neither is possible.
  virtual bool trained(const Problem& problem) const = 0;
  virtual bool tested(const Problem& problem) const = 0;
  // Whether what a model wrote solves the problem.
  virtual bool solves(const Problem& problem, const std::string& written) const {
    return written == problem.answer;
  }
};

// Problem number `index` of the training or of the test stream: a function of the arguments alone.
Problem problem_at(const ProblemSource& source, uint64_t seed, bool test, uint64_t index);

// Every tenth problem by its hash.
bool tenth(const Problem& problem);

// "sudoku", "addition", "countdown", "json".
std::vector<std::string> problem_names();
std::string problem_list();  // the same, apart by commas
std::unique_ptr<ProblemSource> make_problems(const std::string& name);

}  // namespace tutti::train
