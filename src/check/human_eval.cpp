#include "check/human_eval.h"

#include <algorithm>
#include <array>
#include <random>

#include "base/confined_process.h"

namespace tutti::check {
namespace {

// The inside of the last pair of ``` lines; empty when there is none.
std::string_view last_fenced(std::string_view text) {
  constexpr std::string_view kFence = "```";
  size_t open = std::string_view::npos;
  std::string_view found;
  bool at_line_start = true;
  for (size_t i = 0; i < text.size(); ++i) {
    if (at_line_start && text.substr(i).starts_with(kFence)) {
      const size_t line_end = std::min(text.find('\n', i), text.size());
      if (open == std::string_view::npos) {
        open = std::min(line_end + 1, text.size());
      } else {
        found = text.substr(open, i - open);
        open = std::string_view::npos;
      }
      i = line_end;
    }
    at_line_start = i < text.size() && text[i] == '\n';
  }
  // An answer that was cut off in its code.
  return open != std::string_view::npos && found.empty() ? text.substr(open) : found;
}

std::string_view until_function_ends(std::string_view completion) {
  constexpr std::array<std::string_view, 5> kStops = {"\nclass", "\ndef", "\n#", "\nif", "\nprint"};
  size_t end = completion.size();
  for (const std::string_view stop : kStops) end = std::min(end, completion.find(stop));
  return completion.substr(0, end);
}

// The prompt's lines before the function that is to be completed.
std::string_view before_function(const PythonTask& task) {
  const size_t at = task.prompt.find("def " + task.entry_point);
  return std::string_view(task.prompt).substr(0, at == std::string::npos ? 0 : at);
}

}  // namespace

std::string python_program(const PythonTask& task, std::string_view completion) {
  const std::string_view code = last_fenced(completion);
  std::string program;
  if (!code.empty() && code.find("def " + task.entry_point) != std::string_view::npos) {
    program = std::string(before_function(task)) + std::string(code);
  } else {
    program = task.prompt + std::string(until_function_ends(code.empty() ? completion : code));
  }
  return program + "\n" + task.test + "\ncheck(" + task.entry_point + ")\n";
}

PythonVerdict run_python(const std::string& program, double seconds) {
  // The source comes by standard input, so that nothing is written. A program that exits early has
  // not passed its tests: only the mark behind them says so, and it cannot be guessed.
  std::random_device random;
  const std::string mark = "tutti-" + std::to_string(random()) + std::to_string(random());
  ProcessLimits limits;
  limits.seconds = seconds;
  const ProcessResult done =
      run_confined({"python3", "-I", "-S", "-"}, program + "\nprint('\\n" + mark + "')\n", limits);
  PythonVerdict verdict;
  verdict.output = done.output;
  switch (done.end) {
    case ProcessResult::kTimeout:
      verdict.status = "timed out";
      return verdict;
    case ProcessResult::kOutput:
      verdict.status = "too much output";
      return verdict;
    case ProcessResult::kSignal:
      verdict.status = "stopped by a signal";
      return verdict;
    case ProcessResult::kExit:
      break;
  }
  const std::string line = "\n" + mark + "\n";
  verdict.passed = done.code == 0 && verdict.output.ends_with(line);
  if (verdict.passed) verdict.output.resize(verdict.output.size() - line.size());
  verdict.status = verdict.passed ? "passed" : "failed";
  return verdict;
}

}  // namespace tutti::check
