// The results of `bench serve` as table, JSON and plots.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "eval/load/load_report.h"

namespace tutti::cli {

struct LoadLevel {
  double level = 0;  // clients, or requests a second; 0: a trace's
  eval::LoadRun run;
  eval::LoadSummary all;
  std::vector<std::pair<std::string, eval::LoadSummary>> groups;  // of the same run

  LoadLevel() = default;
};

struct LoadDocument {
  nlohmann::ordered_json about;
  bool open_loop = false, streams = true, interrupted = false;
  eval::LoadSummary lone, lone_long;  // the latter: no request, when nothing is long
  std::array<eval::LoadGoals, 2> goals;
  std::vector<LoadLevel> levels;

  LoadDocument() = default;
};

void print_load(const LoadDocument& document);
nlohmann::ordered_json load_json(const LoadDocument& document);
std::string load_throughput_plot(const LoadDocument& document);
std::string load_latency_plot(const LoadDocument& document);
// A line of JSON per request.
std::string load_records(const LoadDocument& document);

}  // namespace tutti::cli
