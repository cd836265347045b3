// From a row of logits to a token: the rules that reshape the distribution, in an order that can be
// changed, and the draw. Sources: sheet 00-ar section 6 for the rules; Gumbel-max (E. J. Gumbel
// 1954; Maddison et al. 2014) for the draw; Meister et al. 2023 for typical; min-p after Nguyen et
// al. 2024.
//
// The draw is argmax(processed logit + noise), the noise a function of (seed, request, path,
// position, token) alone. So a token keeps its noise whatever the rules remove, and a seed gives
// the same tokens on every instruction set: everything that can decide a token is either a kernel
// with fixed bits, an integer sum, or fp64 additions and multiplications in ascending token order.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/philox.h"

namespace tutti::engine {

// The steps of sampling. Each sees what the steps before it left.
enum class Rule : uint8_t {
  kBias,               // l += bias
  kRepetition,         // l > 0: l / r, else l * r; once per distinct token of the window
  kPresenceFrequency,  // l -= presence * [count > 0] + frequency * count, output tokens only
  kTemperature,        // l *= 1 / temperature
  kTopK,               // keep the k largest
  kTopP,               // keep the smallest descending prefix with mass >= p
  kMinP,               // drop p_i < min_p * p_max
  kTypical,            // keep the smallest prefix by |surprisal - entropy| with mass >= p
};

// bias;repetition;presence_frequency;temperature;top_k;top_p;min_p;typical
std::vector<Rule> default_order();
// Names separated by ';', blanks around them ignored. Throws Error(kUsage) for an unknown or
// repeated name.
std::vector<Rule> parse_order(std::string_view text);
std::string print_order(std::span<const Rule> order);

// How one token is chosen. The defaults change nothing: a draw from the model's own distribution.
// Rules whose parameter is neutral cost nothing.
struct Sampling {
  Sampling() = default;

  float temperature = 1.0f;  // 0: greedy, the argmax after bias and penalties, lowest id on ties
  int top_k = 0;             // 0: off
  float top_p = 1.0f;        // 1: off; 0 keeps one token
  float min_p = 0.0f;        // 0: off
  float typical_p = 1.0f;    // 1: off; 0 keeps one token
  float repetition_penalty = 1.0f;  // 1: off
  int penalty_window = -1;          // the last n tokens of prompt + output; -1: all, 0: none
  float presence_penalty = 0.0f;    // 0: off
  float frequency_penalty = 0.0f;   // 0: off
  std::vector<std::pair<int32_t, float>> logit_bias;  // -infinity forbids; repeated ids add up
  // Forbidden ids and the allowed set (bit id % 64 of word id / 64) are constraints, not rules:
  // they hold first, whatever the order.
  std::vector<int32_t> suppressed;
  std::shared_ptr<const std::vector<uint64_t>> allowed;
  std::vector<Rule> order = default_order();
  int logprobs = -1;  // -1: none; 0: the token's own; n: and the n best alternatives
  bool processed_logprobs =
      false;       // alternatives of the processed distribution, not of the raw one
  int ranked = 0;  // n: the n tokens that the draw would take first, second, …; for drafts
  bool ranked_probabilities = true;  // of those, RankedToken::log_probability, too

  bool greedy() const { return temperature == 0.0f; }
  bool needs_history() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

// Throws Error(kUsage) naming the field, its value and its range, or a rule that is set but that
// the order leaves out. Call it once per request; the functions below trust its answer.
void validate(const Sampling& sampling, int vocabulary);

// The tokens that penalties look at. Copyable, so that a fork carries its own; O(1) a token in and
// out.
class History {
 public:
  // `window` as Sampling::penalty_window of the Sampling it is used with.
  explicit History(int window = -1) : window_(window) {}

  void append_prompt(std::span<const int32_t> tokens);  // before any output
  void append_output(int32_t token);
  // Takes the last `count` output tokens back: penalties of a speculated position see the
  // hypothetical prefix, so drafts are appended while they are verified and undone when they are
  // rejected.
  void undo_output(int count = 1);

  int window() const { return window_; }
  bool empty() const { return tokens_.empty(); }
  int output_size() const { return int(tokens_.size()) - prompt_size_; }
  const std::unordered_map<int32_t, int>& output_counts() const { return output_counts_; }
  const std::unordered_map<int32_t, int>& window_counts() const { return window_counts_; }

 private:
  void enter_window(int32_t token);
  static void remove(std::unordered_map<int32_t, int>& counts, int32_t token);

  int window_;
  int prompt_size_ = 0;
  std::vector<int32_t> tokens_;
  std::unordered_map<int32_t, int> output_counts_;
  std::unordered_map<int32_t, int> window_counts_;
};

struct TokenLogProbability {
  int32_t token = -1;
  float log_probability = 0;
};

// A token as the draw ranks it.
struct RankedToken {
  int32_t token = -1;
  float height = 0;  // processed logit + noise; greedy: processed logit
  // In nats, under the softmax of the processed logits, also when greedy; 0 unless
  // Sampling::ranked_probabilities.
  float log_probability = 0;
};

struct Picked {
  Picked() = default;

  int32_t token = -1;
  // In nats, 0 unless Sampling::logprobs >= 0. `log_probability` is under the processed
  // distribution (greedy: a certainty, 0), `raw_log_probability` under the softmax of the logits as
  // they came.
  float log_probability = 0;
  float raw_log_probability = 0;
  std::vector<TokenLogProbability> top;  // best first, lower id first on ties
  std::vector<RankedToken> ranked;       // Sampling::ranked, the picked token first
};

// A processed distribution: ids ascending, probabilities > 0 that add up to 1 within rounding.
struct Distribution {
  Distribution() = default;
  Distribution(std::vector<int32_t> ids, std::vector<double> probabilities)
      : ids(std::move(ids)), probabilities(std::move(probabilities)) {}

  // 0 for ids that are not there.
  double probability(int32_t id) const;

  std::vector<int32_t> ids;
  std::vector<double> probabilities;
};

// Applies rules and draws. Holds only scratch memory, so one object serves any number of requests
// of one thread. All functions may change `logits` ([vocabulary], one row) in place, and throw
// Error(kUsage) when bias, suppressed ids and the allowed set leave no token.
class Sampler {
 public:
  // `key.purpose` is the caller's: kTargetSample for output, also for drafts that share its noise.
  // `ids`, ascending: the tokens that the logits are of, when they are not the whole vocabulary's;
  // others cannot be picked, and no log-probabilities (Sampling::logprobs) asked for.
  Picked pick(std::span<float> logits, const Sampling& sampling, const History& history,
              const DrawKey& key, std::span<const int32_t> ids = {});

  // What pick draws from, as probabilities; greedy gives one token with probability 1.
  Distribution distribution(std::span<float> logits, const Sampling& sampling,
                            const History& history);

 private:
  void process(std::span<float> logits, std::span<const int32_t> ids, const Sampling& sampling,
               const History& history);
  void constrain(const Sampling& sampling);
  void apply(Rule rule, const Sampling& sampling, const History& history);
  void apply_bias(const Sampling& sampling);
  void apply_repetition(float penalty, const History& history);
  void apply_presence_frequency(float presence, float frequency, const History& history);
  void apply_top_k(int k);
  void apply_top_p(float p);
  void apply_min_p(float min_p);
  void apply_typical(float p);

  std::span<float> values() { return whole_ ? logits_ : std::span<float>(values_); }
  int32_t id(int index) const { return whole_ ? index : ids_[size_t(index)]; }
  float* find(int32_t id);                 // the candidate's logit, or null
  int best();                              // index of the largest value, lowest id on ties
  double weigh();                          // fills weights_; returns the largest value
  void narrow(std::span<const int> kept);  // indices, ascending
  template <class Key>
  void keep_prefix(Key key, double lowest, float mass);
  int draw(const DrawKey& key);
  std::vector<RankedToken> rank(const Sampling& sampling, const DrawKey& key);

  // The candidates: all of logits_ while whole_, then ids_ (ascending) with values_.
  bool whole_ = true;
  std::span<float> logits_;
  std::vector<int32_t> ids_;
  std::vector<float> values_;
  std::vector<float> weights_;  // exp(value - largest value)
  std::vector<float> raw_;
  std::vector<float> noise_;
  std::vector<int> kept_;
  std::vector<int> border_;
  std::vector<int16_t> places_;
  std::vector<uint64_t> buckets_;
};

}  // namespace tutti::engine
