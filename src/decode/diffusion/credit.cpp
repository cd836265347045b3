#include "decode/diffusion/credit.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tensor/kernels.h"

namespace tutti::decode::diffusion {
namespace {

// Our own functions, so that a token does not depend on the C library.
double exp_of(double x) {
  const float in = float(x);
  float out = 0;
  tensor::kernels().exp(&in, 1, &out);
  return double(out);
}
double log_of(double x) {
  const float in = float(x);
  float out = 0;
  tensor::kernels().log(&in, 1, &out);
  return double(out);
}

void check(bool holds, const char* what) {
  if (!holds) throw Error(ErrorKind::kUsage, std::string("policy credit: ") + what);
}

}  // namespace

Credit::Credit(const PolicyOptions& options) : options_(options) {
  check(options.credit_alpha >= 0, "credit_alpha must not be negative");
  check(options.credit_decay >= 0 && options.credit_decay <= 1, "credit_decay must lie in 0..1");
  check(options.credit_gamma > 0, "credit_gamma must be positive");
  check(options.credit_slots >= 0, "credit_slots must not be negative");
}

void Credit::begin_block(int open) {
  entries_.clear();
  open_at_start_ = open;
}

std::vector<int32_t> Credit::listed(int position) const {
  std::vector<int32_t> out;
  if (const auto it = entries_.find(position); it != entries_.end()) {
    for (const Entry& e : it->second) out.push_back(e.token);
  }
  return out;
}

double Credit::credit(int position, int32_t token) const {
  if (const auto it = entries_.find(position); it != entries_.end()) {
    for (const Entry& e : it->second) {
      if (e.token == token) return e.credit;
    }
  }
  return 0;
}

void Credit::earn(Prediction& p, double decay, double gamma) {
  auto& entries = entries_[p.position];
  for (Entry& e : entries) e.credit *= decay;
  const double earned = exp_of(gamma * double(p.likeliest_logit - p.log_sum_exp));
  for (Entry& e : entries) {
    if (e.token != p.likeliest) continue;
    e.credit += earned;
    return;
  }
  p.listed.emplace_back(p.likeliest, p.likeliest_logit);
  if (options_.credit_slots > 0 && int(entries.size()) >= options_.credit_slots) {
    const auto least = std::ranges::min_element(entries, {}, &Entry::credit);
    if (least->credit >= earned) return;
    entries.erase(least);
  }
  entries.push_back({p.likeliest, earned});
}

void Credit::fuse(Prediction& p, double alpha) const {
  // With raised logits l + d of the listed tokens: Z' = Z + sum of p (e^d - 1).
  double raised = 0;
  int32_t best = p.likeliest;
  double best_logit = double(p.likeliest_logit);
  for (const auto& [token, logit] : p.listed) {
    const double bonus = alpha * log_of(1.0 + credit(p.position, token));
    const double share = exp_of(double(logit) - double(p.log_sum_exp));
    raised += share * (exp_of(bonus) - 1.0);
    const double fused = double(logit) + bonus;
    // The likeliest token, too, is among the listed ones by now.
    if (fused > best_logit || (fused == best_logit && token < best)) {
      best = token;
      best_logit = fused;
    }
  }
  p.token = best;
  p.log_probability = float(best_logit - double(p.log_sum_exp) - log_of(1.0 + raised));
  if (options_.credit_keep) {
    const auto own = std::ranges::find(p.listed, best, &std::pair<int32_t, float>::first);
    if (own != p.listed.end())
      p.log_probability = std::max(p.log_probability, own->second - p.log_sum_exp);
  }
  p.probability = float(exp_of(double(p.log_probability)));
}

std::vector<int> Credit::choose(const Step& step, std::vector<Prediction>& predictions) {
  const int open = int(std::ranges::count_if(predictions, &Prediction::open));
  double alpha = double(options_.credit_alpha), decay = double(options_.credit_decay),
         gamma = double(options_.credit_gamma);
  if (options_.credit_free) {
    const double block = open_at_start_ > 0 ? double(open) / open_at_start_ : 0.0;
    alpha = decay = 1.0 - (options_.credit_of_answer ? double(step.open_share) : block);
    gamma = 1.0;
  }
  for (Prediction& p : predictions) {
    if (!p.open) continue;
    earn(p, step.index == 0 ? 1.0 : decay, gamma);
    fuse(p, alpha);
  }
  const std::vector<float> s = scores(predictions, Order::kConfidence, options_.key, step.index);
  return best_and_accepted(predictions, ranked(predictions, s), step.least, [&](size_t i) {
    return predictions[i].probability >= options_.threshold;
  });
}

}  // namespace tutti::decode::diffusion
