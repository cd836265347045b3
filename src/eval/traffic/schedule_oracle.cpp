#include "eval/traffic/schedule_oracle.h"

#include <algorithm>

namespace tutti::eval {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

enum class State { kFuture, kWaiting, kFlying, kGone };

struct Simulated {
  State state = State::kFuture;
  int prompt_left = 0;
  int tokens_left = 0;
  int depth = 0;      // slots of its context
  int turn = 0;       // of admission
  int last_run = -1;  // instances: its latest turn, by a counter that admissions share
  int slot = -1;
};

}  // namespace

std::vector<ForecastRequest> forecast_requests(const Trace& trace, const std::vector<int>& tokens) {
  std::vector<ForecastRequest> requests;
  for (size_t i = 0; i < trace.size(); ++i) {
    ForecastRequest r;
    r.arrival = trace[i].arrival;
    if (trace[i].cancel_after >= 0) r.cancel = trace[i].arrival + trace[i].cancel_after;
    r.prompt = int(trace[i].prompt.size());
    r.tokens = tokens.empty() ? trace[i].output_tokens : tokens[i];
    requests.push_back(r);
  }
  return requests;
}

Forecast forecast_schedule(const std::vector<ForecastRequest>& requests, const TrafficOptions& o,
                           const TickCost& cost) {
  const size_t n = requests.size();
  const bool batch = o.scheduler == Scheduler::kDynamicBatch,
             alone = o.scheduler == Scheduler::kInstances;
  const bool slots = o.scheduler == Scheduler::kFused && o.layout == Layout::kContiguous &&
                     o.shuffle == Shuffle::kOff;
  std::vector<Simulated> s(n);
  Forecast f;
  f.join.assign(n, -1);
  f.leave.assign(n, -1);
  f.end.assign(n, -1);
  double now = 0;
  int turns = 0;
  std::vector<size_t> members;                        // of the dynamic batch, ended ones too
  std::vector<int> owner(size_t(o.concurrency), -1);  // of slots: who had it last

  const auto count = [&](State state) {
    return int(std::count_if(s.begin(), s.end(),
                             [state](const Simulated& x) { return x.state == state; }));
  };
  const auto alive = [&](int slot) {
    const int who = owner[size_t(slot)];
    return who >= 0 && s[size_t(who)].state == State::kFlying && s[size_t(who)].slot == slot;
  };
  const auto leave = [&](size_t i) {
    if (s[i].state == State::kFlying) f.leave[i] = f.iterations();
    s[i].state = State::kGone;
    f.end[i] = now;
    f.seconds = std::max(f.seconds, now);
  };
  const auto first_waiting = [&] {
    size_t best = n;
    for (size_t i = 0; i < n; ++i) {
      if (s[i].state != State::kWaiting) continue;
      if (best == n ||
          (o.admission == Admission::kShortestPrompt && requests[i].prompt < requests[best].prompt))
        best = i;
    }
    return best;
  };
  const auto take_slot = [&] {
    int low = o.concurrency, high = -1;
    for (int x = 0; x < o.concurrency; ++x) {
      if (!alive(x)) continue;
      low = std::min(low, x);
      high = x;
    }
    if (high < 0) return 0;
    if (high + 1 < o.concurrency) return high + 1;
    if (low > 0) return low - 1;
    int x = low;
    while (alive(x)) ++x;
    return x;
  };

  for (;;) {
    const int places = batch ? (count(State::kFlying) == 0 ? o.concurrency : 0)
                             : o.concurrency - count(State::kFlying);
    for (size_t i = 0; i < n; ++i) {
      if (s[i].state != State::kFuture || requests[i].arrival > now) continue;
      if (requests[i].refused || (o.queue > 0 && count(State::kWaiting) >= o.queue + places)) {
        s[i].state = State::kGone;
        continue;
      }
      s[i].state = State::kWaiting;
      s[i].prompt_left = requests[i].prompt;
      s[i].tokens_left = requests[i].tokens;
    }
    for (size_t i = 0; i < n; ++i) {
      const bool here = s[i].state == State::kWaiting || s[i].state == State::kFlying;
      if (here && requests[i].cancel <= now) leave(i);
    }
    double opens = kNever;  // of the next dynamic batch
    bool open = true;
    if (batch) {
      if (count(State::kFlying) == 0) members.clear();
      double oldest = kNever;
      for (size_t i = 0; i < n; ++i) {
        if (s[i].state == State::kWaiting) oldest = std::min(oldest, requests[i].arrival);
      }
      opens = oldest + o.window_seconds;
      open =
          count(State::kFlying) == 0 && (count(State::kWaiting) >= o.concurrency || opens <= now);
    }
    while (open && count(State::kFlying) < o.concurrency && first_waiting() < n) {
      const size_t i = first_waiting();
      s[i].state = State::kFlying;
      s[i].turn = s[i].last_run = turns++;
      f.join[i] = f.iterations();
      if (batch) members.push_back(i);
      if (slots) {
        s[i].slot = take_slot();
        owner[size_t(s[i].slot)] = int(i);
      }
    }
    const bool ended =
        std::all_of(s.begin(), s.end(), [](const Simulated& x) { return x.state == State::kGone; });
    if (ended) return f;

    std::vector<size_t> flying;  // those that this iteration computes, by admission
    for (size_t i = 0; i < n; ++i) {
      if (s[i].state == State::kFlying) flying.push_back(i);
    }
    const int in_flight = int(flying.size());
    std::sort(flying.begin(), flying.end(), [&](size_t a, size_t b) {
      return alone ? s[a].last_run < s[b].last_run : s[a].turn < s[b].turn;
    });
    if (flying.empty()) {
      double next = opens;
      for (size_t i = 0; i < n; ++i) {
        if (s[i].state == State::kFuture) next = std::min(next, requests[i].arrival);
      }
      now = std::max(now, next);
      continue;
    }
    if (alone) flying.resize(1);

    int rows = 0, dead = 0, budget = o.prompt_rows;
    double keys = 0;
    std::vector<size_t> given;  // who gets a token
    for (const size_t i : flying) {
      if (alone) s[i].last_run = turns++;
      if (s[i].prompt_left == 0) {
        keys += s[i].depth + 1;
        ++s[i].depth;
        ++rows;
        given.push_back(i);
        continue;
      }
      const int chunk = std::min(budget, s[i].prompt_left);
      budget -= chunk;
      keys += chunk * (s[i].depth + (chunk + 1) / 2.0);
      s[i].depth += chunk;
      s[i].prompt_left -= chunk;
      rows += chunk;
      if (s[i].prompt_left == 0) given.push_back(i);
    }
    const auto dead_lane = [&](size_t i) {
      ++dead;
      ++rows;
      keys += s[i].depth + 1;
    };
    for (const size_t i : members) {
      if (s[i].state == State::kGone) dead_lane(i);
    }
    if (slots) {
      int low = 0, high = o.concurrency - 1;
      while (!alive(low)) ++low;
      while (!alive(high)) --high;
      for (int x = low; x <= high; ++x) {
        if (!alive(x)) dead_lane(size_t(owner[size_t(x)]));
      }
    }
    now += cost(rows, keys / rows);
    f.rows.push_back(rows);
    f.dead_rows.push_back(dead);
    f.in_flight.push_back(in_flight);
    for (const size_t i : given) {
      if (--s[i].tokens_left == 0) leave(i);
    }
  }
}

}  // namespace tutti::eval
