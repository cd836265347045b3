// Which positions a forward's predictions fill: the commit policies of masked models, as pure
// functions of the predictions and of what the policy remembers. Sources by policy in make_policy's
// table (policy.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/philox.h"

namespace tutti::decode::diffusion {

// What the model says about one position.
struct Prediction {
  int position = 0;
  bool open = true;    // false: already written; policies that look at the whole block see it too
  bool last = false;   // to be written behind all others, and never because it is likely
  int32_t token = -1;  // what would be written; never the mask
  float log_probability = 0;  // of `token`, in nats, under the softmax of the logits as they came
  float probability = 0;      // its exponential
  float margin = 0;           // probability of the likeliest token minus that of the second
  float entropy = 0;          // of that softmax, in nats
  int32_t likeliest = -1;     // the argmax of those logits, not the mask
  float likeliest_logit = 0;
  float log_sum_exp = 0;
  std::vector<std::pair<int32_t, float>> listed;  // logits of the tokens that the policy asked for
};

// By what open positions are ranked; the first of equal ones is the leftmost.
enum class Order : uint8_t { kConfidence, kMargin, kEntropy, kRandom, kSequential };

// Where a block stands.
struct Step {
  int index = 0;         // steps made in it before
  int least = 1;         // positions that the schedule writes at this step
  float open_share = 1;  // open positions of the whole answer, of all that were not pinned
};

class Policy {
 public:
  virtual ~Policy() = default;
  // A new block with `open` open positions.
  virtual void begin_block(int open) { (void)open; }
  // Indices of the predictions to write, all open, the best first; of `schedule` with bernoulli
  // perhaps none. May change the predictions' tokens (credit).
  virtual std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) = 0;
  // Whether it looks at written positions of the block, too.
  virtual bool sees_written() const { return false; }
  // Tokens whose logits it wants at `position`.
  virtual std::vector<int32_t> listed(int position) const {
    (void)position;
    return {};
  }
  // Whether choose() is a function of its argument alone, so that a draft's step can be verified.
  virtual bool stateless() const { return false; }
  // The ranking behind its choice.
  virtual Order order() const { return Order::kConfidence; }
};

struct PolicyOptions {
  std::string name = "threshold";
  Order order = Order::kConfidence;
  float threshold = 0.9f;     // threshold, hierarchy, credit, confident (above 1: never)
  float threshold_decay = 0;  // threshold: what a block's threshold, 1 at first, loses at each step
  float factor = 1.0f;        // factor
  float entropy = 0.5f;       // entropy: nats at most
  float entropy_bound = 0.35f;  // entropy-bounded: nats together
  float low_threshold = 0.4f;   // hierarchy
  int steps = 0;           // confident, schedule: of the whole block; 0: as many as open positions
  float epsilon = 1e-3f;   // confident, schedule: the last time
  bool bernoulli = false;  // schedule: every position by itself (Dream's origin)
  float order_temperature =
      0;  // confident, schedule: draws positions by softmax(score / this); 0: the best
  float credit_alpha = 0.7f, credit_decay = 0.8f, credit_gamma = 0.2f;  // credit
  int credit_slots = 0;      // credit: entries per position; 0: all
  bool credit_free = false;  // credit: without parameters
  bool credit_of_answer =
      false;  // credit_free: by the share of the whole answer that is open, not of the block
  bool credit_keep = false;  // credit: never less than the token's own probability
  std::string filter;        // learned: a file
  float accept = 0.96f;      // learned
  DrawKey key;               // for kRandom, bernoulli, order_temperature
};

bool is_policy(std::string_view name);

// Throws Error(kUsage) for a name that is not known or options that do not go together;
// Error(kNotFound | kBadFile) for a filter's file. `block`: the block's length.
std::unique_ptr<Policy> make_policy(const PolicyOptions& options, int block);

// Scores by `order`, the higher the sooner, of those to be written last minus infinity; `step`
// makes kRandom's draws differ.
std::vector<float> scores(std::span<const Prediction> predictions, Order order, const DrawKey& key,
                          int step);
// Indices of the open predictions, the best score first.
std::vector<int> ranked(std::span<const Prediction> predictions, std::span<const float> scores);

// Of a ranking its first `least`, and all others whose index `accepts`, but none that is to be
// written last.
template <class Accepts>
std::vector<int> best_and_accepted(const std::vector<Prediction>& predictions,
                                   const std::vector<int>& rank, int least,
                                   const Accepts& accepts) {
  std::vector<int> out;
  for (size_t r = 0; r < rank.size(); ++r) {
    const size_t i = size_t(rank[r]);
    if (int(r) < least || (!predictions[i].last && accepts(i))) out.push_back(rank[r]);
  }
  return out;
}

// How many of m positions step j of s writes: m / s, and one more in the first m mod s steps.
int quota(int m, int s, int j);

}  // namespace tutti::decode::diffusion
