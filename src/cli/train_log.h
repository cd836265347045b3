// A training run's record: one JSON line per step and evaluation, and a plot of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "train/training.h"

namespace tutti::cli {

class TrainLog {
 public:
  // With `resume` the lines that are there stay; those of steps that the run does again go when the
  // first of them comes. Throws Error(kSystem | kBadFile).
  TrainLog(std::filesystem::path path, bool resume);

  void add(const train::StepReport& report);
  void add(const train::EvaluationReport& report);
  // Loss and share of solved problems over steps, as SVG beside the log. Throws Error(kSystem).
  void plot(const std::string& title) const;

 private:
  using Point = std::pair<double, double>;
  void drop_from(int64_t step);
  void write(const std::string& line);

  std::filesystem::path path_;
  std::ofstream file_;
  std::vector<Point> losses_, solved_;  // by step
  bool checked_ = false;                // against steps done again
};

}  // namespace tutti::cli
