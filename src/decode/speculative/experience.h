// What requests that draft alike have learnt on an engine, for those that come: an answer is often
// over before it could find out by itself that drafts do not pay.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "decode/speculative/acceptance.h"
#include "engine/engine.h"

namespace tutti::decode::speculative {

// When drafts are tried that do not seem to pay: what one does not try, one does not learn about.
struct Probes {
  int idle = 0;       // ticks without drafts since the last with some
  int patience = 0;   // of them, until the next probe; 0: not chosen yet
  uint64_t tick = 0;  // the last one that was counted: it is one for all that decode in it
  int begun = 0;      // probes
  // Of the probe that begins: now 3, now 1, now 2, so that none of these forwards' costs grows old.
  int drafts() const { return 1 + (begun + 1) % 3; }
};

// What a forward of a drafting model has promised: the tokens that its first choice was expected to
// gain beyond the row that verifies it, none where it is not put down. A mean over the last ones.
class Promise {
 public:
  double tokens() const { return tokens_; }
  // Of a probe there are few, and without them a drafter that once was too dear would stay so.
  void learn(double tokens, bool probe) {
    const double share = std::max(probe ? 0.2 : 0.05, 1.0 / ++forwards_);
    tokens_ += (tokens - tokens_) * share;
  }

 private:
  double tokens_ = 0.15;  // until the first one
  int forwards_ = 0;
};

struct Experience {
  explicit Experience(const std::vector<double>& expected) : acceptance(expected, 3, 0.998) {}
  Acceptance acceptance;  // remembers some 500 drafts of a kind
  Probes probes;
  Promise promise;
  double seconds = 0;  // of a forward of the drafting model; 0: not measured
};

// That of `drafter` ("lookup", "early-exit 15", ...) on this engine, with one expected acceptance
// per kind where nothing was seen. Stays as long as the engine. On the engine's thread.
inline Experience& experience_of(engine::Engine& engine, const std::string& drafter,
                                 const std::vector<double>& expected) {
  struct All {
    std::map<std::string, Experience> by_drafter;
  };
  return engine.kept<All>().by_drafter.try_emplace(drafter, expected).first->second;
}

}  // namespace tutti::decode::speculative
