// Tasks with checkable answers (train/problems.h) under methods of decoding: how many are solved,
// in how many forwards and seconds.
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

struct TaskItem {
  std::string prompt;
  std::vector<int32_t> ids;  // of the prompt, as the model reads it
  std::function<bool(const std::string& written)> solves;
};

struct TaskOptions {
  int problems = 128;    // numbers [first, first + problems) of the stream or file
  bool trained = false;  // of problems that may be trained on; false: held-out ones
  uint64_t first = 0;
  uint64_t seed = 1;  // of the stream, and of each answer: seed + its index
  int batch = 1;      // answered at the same time
  int tokens = 64;    // of an answer at most
};

// Problems that `task` draws. It must outlive them.
std::vector<TaskItem> generated_items(const train::ProblemSource& task,
                                      const text::Tokenizer& tokenizer, const TaskOptions& options);

// How a file's answers are checked.
enum class Check : uint8_t {
  kExact,   // the text itself, white space at both ends aside
  kNumber,  // its last number, as GSM8K's (check/numbers.h)
  kPython,  // a function completed; runs what the model writes, confined (check/human_eval.h)
};
struct NamedCheck {
  std::string_view name;
  Check check;
};
inline constexpr NamedCheck kChecks[] = {
    {"exact", Check::kExact}, {"number", Check::kNumber}, {"python", Check::kPython}};

// JSON lines: {"prompt" or "question", "answer"}, for kPython {"prompt", "test", "entry_point"};
// other keys are not read. `encode`: a prompt's ids. `place` names the file. Throws Error(kUsage)
// naming file, line and what is wrong.
std::vector<TaskItem> items_of_lines(
    std::string_view lines, const std::string& place, Check check,
    const std::function<std::vector<int32_t>(const std::string&)>& encode,
    const TaskOptions& options);

struct TaskResult {
  int problems = 0;
  int solved = 0;
  uint64_t forwards = 0;  // of all answers, each answer's own
  uint64_t ticks = 0;     // of the engine: forwards that answers shared count once
  uint64_t tokens = 0;    // up to and with the end token
  uint64_t rows = 0;
  uint64_t proposed = 0, accepted = 0;
  std::vector<uint64_t> waits;  // of all answers (decode::MethodStatistics), as the next two
  std::vector<uint64_t> drafted_at, accepted_at;
  double seconds = 0;
  struct Answer {
    std::string prompt, text;
    bool solved = false;
  };
  std::vector<Answer> answers;  // in the order of the problems

  double accuracy() const { return problems ? 100.0 * solved / problems : 0; }  // percent
  double tokens_per_forward() const { return forwards ? double(tokens) / double(forwards) : 0; }
  double tokens_per_second() const { return seconds > 0 ? double(tokens) / seconds : 0; }
  // For how many steps, on average, a token had been the likeliest when it was written; 0 when
  // nobody counts.
  double mean_wait() const;
};

// Throws what generate() throws. `progress` is called with the number of answers so far. Answers
// are checked when all are there.
TaskResult run_task(engine::Engine& engine, const text::Tokenizer& tokenizer,
                    const std::vector<TaskItem>& items, const decode::GenerationOptions& how,
                    const TaskOptions& options, const std::function<void(int)>& progress);

// Accuracy under parallelism (sheet 00-dllm): points of (tokens per forward, accuracy in percent),
// of which those more than 5 points below the one with the fewest tokens per forward do not count.
// The area under accuracy weighed by min(exp(-3 (1 - y / y_max)), 1), the first point's rectangle
// included. Empty: 0.
double accuracy_under_parallelism(std::vector<std::pair<double, double>> points);

// Which of the points (forwards per answer, accuracy) no other one beats: none has fewer forwards
// and at least the accuracy, nor more accuracy in at most the forwards. Indices by ascending
// forwards; of equal points the first.
std::vector<size_t> pareto_front(const std::vector<std::pair<double, double>>& points);

}  // namespace tutti::eval
