// Tasks with checkable answers (train/problems.h) under methods of decoding: how many are solved, in how many forwards
// and seconds.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "decode/generation.h"
#include "engine/engine.h"
#include "text/tokenizer.h"
#include "train/problems.h"

namespace tutti::eval {

struct TaskOptions {
  int problems = 128;   // numbers [first, first + problems) of the stream
  bool trained = false;  // of problems that may be trained on; false: held-out ones
  uint64_t first = 0;
  uint64_t seed = 1;    // of the stream
  int batch = 1;        // answered at the same time
  int tokens = 64;      // of an answer at most
};

struct TaskResult {
  int problems = 0;
  int solved = 0;
  uint64_t forwards = 0;   // of all answers, each answer's own
  uint64_t ticks = 0;      // of the engine: forwards that answers shared count once
  uint64_t tokens = 0;     // up to and with the end token
  uint64_t rows = 0;
  uint64_t proposed = 0, accepted = 0;
  double seconds = 0;
  struct Answer {
    std::string prompt, text;
    bool solved = false;
  };
  std::vector<Answer> answers;  // in the order of the problems

  double accuracy() const { return problems ? 100.0 * solved / problems : 0; }  // percent
  double tokens_per_forward() const { return forwards ? double(tokens) / double(forwards) : 0; }
  double tokens_per_second() const { return seconds > 0 ? double(tokens) / seconds : 0; }
};

// Throws what generate() throws. `progress` is called with the number of answers so far.
TaskResult run_task(engine::Engine& engine, const text::Tokenizer& tokenizer, const train::ProblemSource& task,
                    const decode::GenerationOptions& how, const TaskOptions& options,
                    const std::function<void(int)>& progress);

// Accuracy under parallelism (sheet 00-dllm): points of (tokens per forward, accuracy in percent), of which those more
// than 5 points below the one with the fewest tokens per forward do not count. The area under accuracy weighed by
// min(exp(-3 (1 - y / y_max)), 1), the first point's rectangle included. Empty: 0.
double accuracy_under_parallelism(std::vector<std::pair<double, double>> points);

}  // namespace tutti::eval
