// How much to draft: as much as makes the engine, with everybody else's rows, write the most tokens
// a second by its own measured costs; of all that the requests of a forward would draft, together.
// What it chooses may depend on the load and the clock, because the text does not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "decode/speculative/experience.h"
#include "decode/speculative/offers.h"
#include "decode/speculative/tree.h"
#include "engine/cost_table.h"
#include "engine/statistics.h"

namespace tutti::decode::speculative {

// Rows of a forward beside those of its tree: `each` for each of `most` of them.
struct Carried {
  int each = 0, most = 0;
  // With so many drafts beside the last token.
  int rows(int drafts) const { return 1 + drafts + each * std::min(1 + drafts, most); }
};

class Pace {
 public:
  // `adaptive` false: everything that is drafted is worth its rows. The engine's tables are read at
  // each step. `probes`: those of all requests that draft alike, `offers`: of all of the engine
  // that draft and carry nothing; null: this one's own. `judged`: drafts that are not put down are
  // judged all the same, so that probes serve the costs alone.
  Pace(const engine::CostTable& cost, const engine::EngineStatistics& statistics, bool adaptive,
       Probes* probes = nullptr, bool judged = false, Offers* offers = nullptr);
  Pace(const Pace&) = delete;
  Pace& operator=(const Pace&) = delete;

  // Before a forward of a request whose next row sees `keys` slots. Nothing is carried.
  void begin(double keys);
  void carry(Carried carried) { carried_ = carried; }
  // Whether forwards that carry as much, with as many drafts of these expected reaches, descending,
  // as pay, are expected to write more tokens a second than forwards without. True unless adaptive.
  bool carrying_pays(Carried carried, std::span<const double> reach) const;
  // The expected probability of acceptance from which on a draft after `before` others of this
  // forward pays, when making it takes `seconds`; above 1: it never does.
  double price(int before, double seconds = 0) const;
  // The same, but 0 where it is made whatever it costs: unless adaptive, and in a probe.
  double least_reach(int before, double seconds = 0) const;
  // Says what this request would draft, before all that do so decide: trim(). False: there is
  // nothing to decide.
  bool offer(const Tree& tree);
  // The part of `tree`, which was offered or is offered now, that makes the most tokens a second
  // with the parts of the others.
  Tree trim(const Tree& tree);
  // Tokens a second that the engine writes, everybody's, when this request puts `rows` rows down
  // and writes `tokens`; 0 while the cost of a row alone is not known.
  double rate(double tokens, double rows) const;
  // After it: `rows` were put down beside what was carried, `tokens` emitted; making the drafts
  // took `seconds_to_draft`.
  void end(int rows, int tokens, double seconds_to_draft = 0);
  bool adaptive() const { return adaptive_; }
  // Whether the forward that begins tries a draft though it does not seem to pay: what one does not
  // try, one does not learn about.
  bool probing() const { return probing_; }

 private:
  // Measured seconds of a forward with so many rows beside those that the others put down without
  // drafts; 0: not known.
  double measured(int rows) const {
    return cost_.measured(int(other_rows_ + 0.5) + rows, keys_).value_or(0);
  }
  // The same as predicted: with so many rows; with `drafts` drafts beside the last token, and what
  // is carried; without drafts or what is carried.
  double seconds_of(int rows) const;
  double seconds(int drafts) const { return seconds_of(carried_.rows(drafts)); }
  double alone() const;
  double doubt() const;                  // how much more what drafts add counts
  double doubted(double seconds) const;  // of a forward with drafts: with what they add overrated
  // The tables have changed.
  void forget() {
    alone_ = -1;
    most_.clear();
  }
  // How many of the drafts make the most tokens a second, and how many that is; the rate counts
  // only where it is more than `least`.
  struct Best {
    int drafts = 0;
    double rate = 0;
  };
  Best best(const Carried& carried, std::span<const double> reach, double least) const;
  // How many of the drafts that were offered are worth it.
  int part();

  const engine::CostTable& cost_;
  const engine::EngineStatistics& statistics_;
  bool adaptive_;
  int first_patience_;
  Carried carried_;
  double keys_ = 0;
  mutable double alone_ = -1;         // of this forward; negative: not asked for yet
  mutable std::vector<double> most_;  // likewise, by rows - 1
  bool probing_ = false;
  bool guessed_ = false;  // the last forward of the probe only carried guesses
  Probes own_;
  Probes& probes_;
  Offers own_offers_;
  Offers& offers_;
  int offered_ = -1;          // its number among the offers of this forward; -1: none
  uint64_t offered_at_ = 0;   // tick
  int taken_ = 0;             // of its drafts
  bool alone_so_far_ = true;  // nothing is known of other requests
  // Of the other requests that decode, per tick: means over the last ticks. Rows and tokens without
  // the drafts that were decided on.
  double other_rows_ = 0, other_tokens_ = 0, other_drafts_ = 0;
  // The engine's when this forward began.
  struct Counted {
    uint64_t ticks = 0, rows = 0, tokens = 0, drafted = 0, won = 0;
  };
  Counted counted() const;
  Counted before_;
};

}  // namespace tutti::decode::speculative
