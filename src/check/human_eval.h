// Function completion with unit tests, as HumanEval does it (Chen et al., arXiv 2107.03374): a
// prompt that ends inside a Python function, a completion, a test that calls `check(entry_point)`.
#pragma once

#include <string>
#include <string_view>

namespace tutti::check {

struct PythonTask {
  std::string prompt, test, entry_point;
};

// The completion up to where the function ends: before the first of "\nclass", "\ndef", "\n#",
// "\nif", "\nprint" (the paper's stops). Of a chat's answer, which holds the code between ```
// lines, the last such block instead: if that defines the entry point it takes the place of the
// prompt's function (its imports stay).
std::string python_program(const PythonTask& task, std::string_view completion);

struct PythonVerdict {
  bool passed = false;
  std::string status;  // "passed", "failed", "timed out", "too much output", "stopped by a signal"
  std::string output;  // what the program printed, errors too
};

// Runs the program in a confined process: it is a stranger's code. Throws Error(kSystem |
// kNotFound): there is no python3, or the process cannot be confined.
PythonVerdict run_python(const std::string& program, double seconds = 3);

}  // namespace tutti::check
