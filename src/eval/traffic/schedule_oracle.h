// The schedule of a trace by a discrete simulation, without an engine: what run_traffic must do
// when an iteration costs what it is said to cost. Written apart from the schedulers, from their
// rules:
//
// At the boundary before an iteration, at time t: requests with arrival <= t join the queue, or are
// refused when it is full; then clients that went away by t take theirs with them, waiting or in
// flight; then waiting requests are admitted while there are places (a dynamic batch: only when
// none runs, and `concurrency` wait or the first has waited for the window). The iteration computes
// each request's next prompt rows, all together at most `prompt_rows`, by order of admission, or
// its one row; whoever has its whole prompt computed gets a token, and leaves with its last.
// `instances` gives the iteration to one request, in turns.
#pragma once

#include <functional>
#include <limits>
#include <vector>

#include "eval/traffic/traffic.h"

namespace tutti::eval {

struct ForecastRequest {
  double arrival = 0;
  double cancel = std::numeric_limits<double>::infinity();  // when its client goes away
  int prompt = 1;
  int tokens = 1;        // that it gives when it may go on to its end
  bool refused = false;  // it can never be served
};

// Seconds of an iteration of `rows` rows that see `keys` keys each on average.
using TickCost = std::function<double(int rows, double keys)>;

struct Forecast {
  std::vector<int> join, leave;  // as in RequestRecord; -1: refused, or gone before it was admitted
  std::vector<double> end;       // of requests: when they left; < 0 when refused
  std::vector<int> in_flight, rows, dead_rows;  // of iterations
  double seconds = 0;                           // until the last request left

  Forecast() = default;
  int iterations() const { return int(rows.size()); }
};

// What the requests of a trace come to, their clients' patience included. `tokens` (per request,
// when it may go on to its end) is empty for the most that each asks for.
std::vector<ForecastRequest> forecast_requests(const Trace& trace,
                                               const std::vector<int>& tokens = {});

// Shuffle::kAuto is taken for kOn. Moving slots costs nothing here. Exact for an engine under the
// fake clock with a constant cost; of fused and paged only as long as its prompts fit their
// iteration (EngineOptions::max_prompt_rows).
Forecast forecast_schedule(const std::vector<ForecastRequest>& requests,
                           const TrafficOptions& options, const TickCost& cost);

}  // namespace tutti::eval
