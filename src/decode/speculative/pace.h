// How much to draft: as much as makes the engine, with everybody else's rows, write the most tokens
// a second by its own measured costs. What it chooses may depend on the load and the clock, because
// the text does not.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/speculative/tree.h"
#include "engine/cost_table.h"
#include "engine/statistics.h"

namespace tutti::decode::speculative {

class Pace {
 public:
  // `adaptive` false: everything that is drafted is worth its rows. The engine's tables are read at
  // each step.
  Pace(const engine::CostTable& cost, const engine::EngineStatistics& statistics, bool adaptive);

  // Before a forward of a request whose next row sees `keys` slots.
  void begin(double keys);
  // The expected probability of acceptance from which on a draft after `before` others of this
  // forward pays, when making it takes `seconds`. 0: it pays anyhow; above 1: it never does.
  double least_reach(int before, double seconds = 0) const;
  // The part of `tree` that makes the most tokens a second.
  Tree trim(const Tree& tree) const;
  // Tokens a second that the engine writes, everybody's, when this request puts `rows` rows down
  // and writes `tokens`; 0 while the cost of a row alone is not known.
  double rate(double tokens, double rows) const;
  // After it: `rows` were put down, `tokens` emitted.
  void end(int rows, int tokens);
  // Whether the forward that begins tries a draft though it does not seem to pay: what one does not
  // try, one does not learn about.
  bool probing() const { return probing_; }

 private:
  // Predicted seconds of a forward with `drafts` drafts beside the last token.
  double seconds(int drafts) const;

  const engine::CostTable& cost_;
  const engine::EngineStatistics& statistics_;
  bool adaptive_;
  double keys_ = 0;
  bool probing_ = false;
  int idle_ = 0;  // forwards without drafts since the last with some
  int patience_;  // of them, until the next probe
  // Of the other requests, per tick: means over the last ticks.
  double other_rows_ = 0, other_tokens_ = 0;
  uint64_t ticks_ = 0, rows_ = 0, tokens_ = 0;  // the engine's when this forward began
};

}  // namespace tutti::decode::speculative
