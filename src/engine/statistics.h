// Counters of an engine and of a request. Times in seconds.
#pragma once

#include <cstdint>

namespace tutti::engine {

struct EngineStatistics {
  uint64_t ticks = 0;
  uint64_t rows = 0;       // pushed through the model, all kinds
  uint64_t head_rows = 0;  // of which logits were computed
  uint64_t rebuilt_rows = 0;       // recomputed from recipes after preemption
  uint64_t cached_rows = 0;        // not computed: found in the prefix cache
  uint64_t preemptions = 0;        // Contexts whose pages were taken away
  double plan_seconds = 0;
  double forward_seconds = 0;
  double program_seconds = 0;  // running programs, delivering answers
  double rows_per_forward() const { return ticks ? double(rows) / double(ticks) : 0; }
};

struct RequestStatistics {
  uint64_t forwards = 0;       // ticks in which this request had rows
  uint64_t rows = 0;           // its rows, prompt included
  uint64_t prompt_tokens = 0;  // asked for
  uint64_t cached_tokens = 0;  // of those, found in the prefix cache
  uint64_t rebuilt_rows = 0;
  uint64_t preemptions = 0;
  double forward_seconds = 0;  // of the ticks it took part in
};

}  // namespace tutti::engine
