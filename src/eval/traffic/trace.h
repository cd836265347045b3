// What arrives at a serving engine and when: made by a process of arrivals, or read from a file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampling.h"

namespace tutti::eval {

struct TrafficRequest {
  double arrival = 0;        // seconds since the trace began
  double cancel_after = -1;  // seconds after its arrival that the client goes away; < 0: never
  std::vector<int32_t> prompt;
  int output_tokens = 1;    // at most
  bool ignore_eos = false;  // an end token does not end it
  bool is_long = false;     // of the share with long prompts
  engine::Sampling sampling;
  uint64_t seed = 0;

  TrafficRequest() { sampling.temperature = 0.0f; }
};

using Trace = std::vector<TrafficRequest>;  // by arrival, ascending

// Both ends included; equal for a constant.
struct Between {
  int low = 1;
  int high = 1;
};
// "64" or "32-128". Throws Error(kUsage) that begins with `option`.
Between parse_between(std::string_view text, const std::string& option);

struct ArrivalOptions {
  int requests = 32;
  enum Process {
    kConstant,
    kPoisson,
    kBursts  // so many at once, at the constant pace of all
  } process = kConstant;
  double interval = 0;  // seconds between two arrivals, or their mean
  int burst = 8;        // of kBursts
  Between prompt_tokens{16, 16};
  Between output_tokens{128, 128};
  double long_share = 0;  // of the requests have long prompts instead
  Between long_prompt_tokens{1024, 1024};
  double sampled_share =
      0;  // of the requests draw at temperature 0.8, top-p 0.95, a seed each; the others are greedy
  double cancelled_share = 0;  // of the requests' clients go away
  double cancel_within = 0;    // seconds after arrival, uniformly
  bool ignore_eos = true;
  uint64_t seed = 1;
};

// Philox draws of the seed: the same trace everywhere. Prompts are random ids in [0, vocab). Throws
// Error(kUsage).
Trace make_trace(const ArrivalOptions& options, int vocab);

// What a file of requests leaves open.
struct TraceDefaults {
  int vocab = 0;
  uint64_t seed = 1;  // of prompts that are only counted
  std::function<std::vector<int32_t>(const std::string&)>
      encode;  // of "prompt"; empty: texts are refused
};

// One JSON object a line: "arrival" (seconds), one of "prompt" (text), "ids" or "prompt_tokens" (so
// many random ids), "output_tokens"; and, as wanted, "cancel_after", "ignore_eos", "seed", "temp",
// "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty". Empty lines
// and lines that begin with # are skipped; the requests are sorted by arrival. Throws
// Error(kUsage): "name, line N: what; what to do".
Trace parse_trace(std::string_view text, const std::string& name, const TraceDefaults& defaults);

}  // namespace tutti::eval
