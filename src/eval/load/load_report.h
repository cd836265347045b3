// What a run of load says in numbers.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eval/distribution.h"
#include "eval/load/load.h"

namespace tutti::eval {

// What an answer must keep to be a good one, in seconds. Infinity: anything does.
struct LoadGoals {
  double first_token, per_token, whole;
};

// Of one group of a run's requests; times in seconds.
struct LoadSummary {
  size_t requests = 0, completed = 0, cancelled = 0, failed = 0, interrupted = 0;
  struct Failure {
    size_t count = 0;
    std::string message;  // of the first
  };
  std::map<std::string, Failure> failures;  // by kind
  // Of completed requests.
  uint64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  bool counted = true;          // by the server; else tokens are pieces of streams
  Distribution first_token;     // from sending to the first text; streams only
  Distribution between_pieces;  // of all streams; a piece is a token, or several that came at once
  Distribution per_token;  // (whole - first_token) / (tokens - 1), of answers of two tokens or more
  Distribution whole;
  size_t good = 0;           // completed within the goals
  uint64_t good_tokens = 0;  // of those
  double seconds = 0;        // of the run

  double requests_per_second() const { return seconds > 0 ? double(completed) / seconds : 0; }
  double tokens_per_second() const { return seconds > 0 ? double(output_tokens) / seconds : 0; }
  double goodput() const { return seconds > 0 ? double(good) / seconds : 0; }
};

enum class LoadGroup : uint8_t { kAll, kShort, kLong };

// `goals`: of short and of long prompts.
LoadSummary summarise(const LoadRun& run, const std::array<LoadGoals, 2>& goals,
                      LoadGroup group = LoadGroup::kAll);

// Milliseconds, except for *_s.
nlohmann::ordered_json json_of(const LoadSummary& summary);
// One object, for a file of lines.
nlohmann::ordered_json json_of(const LoadRecord& record);

}  // namespace tutti::eval
