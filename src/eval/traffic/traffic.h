// Runs a trace of requests on an engine under one of three schedulers, and says what became of
// every request and every iteration. After Flover (arXiv 2305.13484) and what it is compared with.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "eval/traffic/trace.h"

namespace tutti::eval {

enum class Scheduler : uint8_t {
  kFused,  // all requests in flight share every forward; they join and leave at any iteration
  kDynamicBatch,  // collects requests for a time, runs them as one batch until the longest has
                  // ended
  kInstances,     // every request runs alone: forwards with its rows only, in turns with the others
};
// Of kFused.
enum class Layout : uint8_t {
  kPaged,       // the engine's own scheduler: a program per request, pages from the pool
  kContiguous,  // a slot with an area of pages each; the whole window of slots is computed, dead
                // ones included
};
enum class Shuffle : uint8_t {
  kOff,
  kOn,
  kAuto
};  // of kContiguous; kAuto: when it costs less than the holes would
enum class Admission : uint8_t { kFirstCome, kShortestPrompt };

std::string_view name(Scheduler scheduler);  // "fused", "dynamic-batch", "instances"
std::string_view name(Layout layout);        // "paged", "contiguous"
std::string_view name(Shuffle shuffle);      // "off", "on", "auto"

struct TickRecord;

struct TrafficOptions {
  Scheduler scheduler = Scheduler::kFused;
  Layout layout = Layout::kPaged;
  Shuffle shuffle = Shuffle::kAuto;
  Admission admission = Admission::kFirstCome;
  int concurrency = 32;  // requests in flight; slots of the contiguous layout
  int slot_tokens = 0;   // tokens that a slot holds; 0: the longest request of the trace
  int queue = 0;         // requests that may wait for a place, others are refused; 0: any number
  // Prompt rows of one iteration, first come first served. Not of fused and paged: there the
  // engine's own options say (EngineOptions::max_prompt_rows, streaming_tick_seconds).
  int prompt_rows = 512;
  double window_seconds = 0;  // of kDynamicBatch, from the arrival of the first that waits
  std::vector<int32_t> end_ids;
  // > 0: a clock that moves by this much an iteration and jumps over idle times; 0: the real one.
  double tick_seconds = 0;
  // What kAuto reckons with; 0: measured here.
  double seconds_per_row = 0;   // of a dead row
  double seconds_per_byte = 0;  // of moved keys and values
  // Called between iterations with the last one, once all that it ended is known.
  std::function<void(const TickRecord&)> on_tick;
};

// Times in seconds since the trace began; negative: it did not come to that.
struct RequestRecord {
  enum Outcome : uint8_t { kFinished, kCancelled, kRefused } outcome = kRefused;
  double arrival = 0;
  double admitted = -1;
  double first_token = -1;
  double end = -1;
  int join = -1;   // iterations run before it was admitted
  int leave = -1;  // and before it had left; it was in flight in iterations [join, leave)
  std::vector<int32_t> tokens;  // an end token is the last of them
  std::string reason;           // of a refusal
};
std::string_view name(RequestRecord::Outcome outcome);  // "finished", "cancelled", "refused"

// One forward.
struct TickRecord {
  double end = 0;            // seconds since the trace began
  int in_flight = 0;         // requests that were admitted and had not ended
  int waiting = 0;           // for a place, when it began
  int rows = 0;              // pushed through the model, dead ones included
  int dead_rows = 0;         // of lanes whose request had ended
  int tokens = 0;            // that it gave
  int pages = 0;             // in use when it ended
  uint64_t moved_bytes = 0;  // of keys and values, copied before it to close holes
  std::vector<int> added;    // requests admitted before it
  std::vector<int> ended;    // requests that left with it, or were cancelled after it
};

struct TrafficResult {
  std::vector<RequestRecord> requests;  // in the trace's order
  std::vector<TickRecord> ticks;
  double seconds = 0;  // from the beginning of the trace to the end of its last request
  int finished = 0, cancelled = 0, refused = 0;
  uint64_t tokens = 0, rows = 0, dead_rows = 0, moved_bytes = 0;
  int shuffles = 0;

  TrafficResult() = default;
  double mean_in_flight() const;  // over iterations
};

// Runs the trace to its end. A request that cannot be served (longer than the context or its slot,
// more keys and values than the pool holds, no room in the queue) is refused with a reason before
// anything of it is computed; the others are not disturbed. The engine must be idle; its on_tick
// listener is taken. Throws Error(kUsage) for options or a trace that make no sense and
// Error(kLimit) when the slots of the contiguous layout do not fit the pool.
TrafficResult run_traffic(engine::Engine& engine, const Trace& trace,
                          const TrafficOptions& options);

}  // namespace tutti::eval
