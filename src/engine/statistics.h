// Counters of an engine and of a request. Times in seconds.
#pragma once

#include <cstdint>

namespace tutti::engine {

struct EngineStatistics {
  uint64_t ticks = 0;
  uint64_t rows = 0;           // pushed through the model, all kinds
  uint64_t prompt_rows = 0;    // of prompts, of Contexts that come back, of encoders
  uint64_t head_rows = 0;      // of which logits were computed
  uint64_t tokens = 0;         // generated (Engine::count_tokens)
  uint64_t rebuilt_rows = 0;   // recomputed from recipes after preemption
  uint64_t cached_rows = 0;    // not computed: found in the prefix cache
  uint64_t preemptions = 0;    // Contexts whose pages were taken away
  uint64_t network_calls = 0;  // batches of Network jobs
  uint64_t network_jobs = 0;   // jobs that ended with a result
  // Where run() and serve() spend their time; together nearly all of it.
  double program_seconds = 0;  // programs
  double plan_seconds = 0;     // planning, delivering answers
  double lease_seconds = 0;    // waiting for a turn on shared cores
  double forward_seconds = 0;
  double network_seconds = 0;
  double idle_seconds = 0;  // waiting for work, up to and with the program that it wakes
  double rows_per_forward() const { return ticks ? double(rows) / double(ticks) : 0; }
  double tokens_per_forward() const { return ticks ? double(tokens) / double(ticks) : 0; }
};

// Summed over all requests, every counter that both have equals the engine's.
struct RequestStatistics {
  uint64_t forwards = 0;       // ticks in which this request had rows
  uint64_t rows = 0;           // its rows, prompt included
  uint64_t tokens = 0;         // generated
  uint64_t prompt_tokens = 0;  // asked for
  uint64_t cached_tokens = 0;  // of those, found in the prefix cache
  uint64_t loaded_tokens = 0;  // of those, read from a prompt-cache file
  uint64_t cached_rows = 0;    // found in the prefix cache, for the prompt or when slots came back
  uint64_t rebuilt_rows = 0;
  uint64_t preemptions = 0;
  uint64_t network_jobs = 0;
  double forward_seconds = 0;  // its part, by rows, of the forwards it took part in
  double network_seconds = 0;  // its part, by jobs, of the batches it took part in
};

}  // namespace tutti::engine
