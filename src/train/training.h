// A training run from its recipe to a folder that can be used as a model, for those who start it
// (cli/train.cpp). What runs it uses ATen and lies in aten/; this header names no tensor.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "train/guess_report.h"

namespace tutti::train {

// One step. Losses are those before the weights move.
struct StepReport {
  int64_t step = 0;   // 1 for the first
  int64_t steps = 0;  // of the whole run
  double loss = 0;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;     // rows that went through the network
  int64_t predicted = 0;  // of these, with a target
  // Of the loss "certainty": share of the predictions that are right, and the mean entropy of
  // those.
  double right = 0, entropy = 0;
  double seconds = 0;
};

// Held-out problems.
struct EvaluationReport {
  int64_t step = 0;
  int problems = 0, solved = 0;
  double seconds = 0;
  std::string prompt, expected, written;  // the first that was not solved; empty when all were
  // Of losses that train guesses: these on held-out texts, in place of problems.
  std::optional<GuessReport> guesses;
};

struct TrainingRequest {
  std::filesystem::path recipe;
  std::string device;            // instead of the recipe's; empty: that
  std::filesystem::path folder;  // state.safetensors, model/, recipe.json, with adapters adapter/
  bool resume = false;           // go on from the folder's state
  int64_t until = 0;             // stop after this step and save; 0: after the recipe's last
  int threads = 1;
  std::filesystem::path trace;              // not empty: every step's noise and loss as JSON lines
  const std::atomic<bool>* stop = nullptr;  // set: save after the step that runs, and return
  std::function<void(const StepReport&)> on_step;
  std::function<void(const EvaluationReport&)> on_evaluation;
  std::function<void(const std::string&)> on_note;
};

struct TrainingResult {
  int64_t first_step = 0;  // steps that were done before
  int64_t step = 0, steps = 0;
  int64_t parameters = 0, trained_parameters = 0;
  bool stopped = false;  // by the request
  double seconds = 0;
  std::string machine;
};

// The function of the library that is opened on demand, and its name there. Both sides are of one
// build, so C++ types and exceptions pass. Throws Error.
using TrainFunction = void (*)(const TrainingRequest& request, TrainingResult& result);
inline constexpr const char* kTrainFunction = "tutti_train";

}  // namespace tutti::train
