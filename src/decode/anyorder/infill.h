// Filling blanks with an any-order model (XLNet): one network gives p(token at a position | any set
// of decided tokens), so a text can be filled in any order, and what was drafted in parallel can be
// verified by the exact joint density. Source: Guo, Ermon, arXiv 2504.20456 (any-subset speculative
// decoding, ASSD); sheet 45.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace tutti::decode::anyorder {

inline constexpr int32_t kBlank = -1;

// Positions 0 … n - 1, some of them blank. What is given is seen by all, itself in both directions;
// blanks are decided in the order of `order` (their positions, each once), each seeing what is
// given and decided.
struct InfillTask {
  std::vector<int32_t> tokens;  // kBlank where there is nothing
  std::vector<int> order;

  InfillTask() = default;
  InfillTask(std::vector<int32_t> t, std::vector<int> o)
      : tokens(std::move(t)), order(std::move(o)) {}
};

// The blanks of `tokens` from left to right: of the n! orders of n positions the paper trains only
// the 2^n of this kind, one for each set that may be given (a binary lattice).
std::vector<int> lattice_order(std::span<const int32_t> tokens);
// The same from right to left, or shuffled by a seed.
std::vector<int> reversed_order(std::span<const int32_t> tokens);
std::vector<int> random_order(std::span<const int32_t> tokens, uint64_t seed);

enum class Fill : uint8_t {
  kSequential,  // one token a forward: the reference
  kAssd,        // drafts of `width` tokens, verified: the law, or the very tokens, of kSequential
  kParallel,    // `width` tokens a forward, each as if it stood alone: what masked diffusion does.
                // Not the model's law
};
enum class Accept : uint8_t {
  kMatch,   // a drafted token stands if the target picks it with the same noise: kSequential's
            // tokens
  kReject,  // accept with p / q, else draw from norm(max(p - q, 0)): kSequential's law
};
enum class DraftBy : uint8_t {
  kModel,  // the same network, every token as if it came next
  kNgram,  // counts of decided neighbours (bigrams, else single tokens): no forward of its own
};

struct InfillStep {
  uint64_t forward = 0;  // from 1
  int rank = 0;          // of the first blank that it decided
  int decided = 0;
  int proposed = 0;                 // drafts that were verified; 0: none were
  int accepted = 0;                 // of these
  std::span<const int32_t> tokens;  // the text now
};

struct InfillOptions {
  Fill fill = Fill::kAssd;
  Accept accept = Accept::kMatch;
  DraftBy draft = DraftBy::kModel;
  int width = 5;                 // drafted tokens of a round, at least 1
  engine::Sampling sampling;     // without penalties, which have no meaning out of order. The mask
                                 // token is never drawn
  float draft_temperature = -1;  // of all drafted tokens but a round's first; < 0: the sampling's
  double slack =
      0;  // of kReject: accept with p / q + slack. Above 0 the law is not the model's any more
  bool bonus =
      false;  // verify one position more than was drafted: a token for a row when all drafts stand
  bool cached = true;  // keep keys and values of decided tokens; otherwise each forward computes
                       // them all again
  uint64_t seed = 0;
  uint32_t request_key = 0;  // DrawKey::request
  uint32_t path = 0;         // DrawKey::path
  // Called after every forward that decided something, with the ranks that it decided.
  std::function<void(const InfillStep&)> on_step;

  InfillOptions() = default;
};

// A blank as it was filled.
struct Filled {
  int position = 0;
  int32_t token = 0;
  double log_probability =
      0;  // under the model without the mask token, given all that was decided before
  bool drafted = false;  // a draft that stood
};

struct Infilled {
  Infilled() = default;
  std::vector<int32_t> tokens;
  std::vector<Filled> filled;           // by rank
  uint64_t forwards = 0;                // the number of function evaluations (NFE)
  uint64_t rounds = 0;                  // of drafting and verifying
  uint64_t proposed = 0, accepted = 0;  // drafts that were verified, and that stood
  double log_probability = 0;           // sum over filled
};

// Throws Error(kUsage) naming what is wrong with the task or the options, Error(kLimit) when the
// text does not fit the model's context, Error(kUnsupported) for a model that has no query stream.
void check(const models::Config& config, const InfillTask& task, const InfillOptions& options);
Task<Infilled> infill(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                      InfillTask task, InfillOptions options);

struct Score {
  Score() = default;
  std::vector<Filled> filled;  // by rank; `drafted` has no meaning
  double log_probability = 0;
  std::vector<std::vector<float>> logits;  // of each, when they were asked for
};
// The log-probability of the tokens at the positions of `order`, which are given in `task.tokens`
// like all others, in one forward: those positions are treated as blanks that were filled in this
// order. Throws as infill does.
Task<Score> score(engine::Engine& engine, std::shared_ptr<engine::Request> request, InfillTask task,
                  bool logits = false);

}  // namespace tutti::decode::anyorder
