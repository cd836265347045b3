// CreditDecoding (Wang et al., arXiv 2510.06133): every position keeps, per token that was its
// likeliest one, a decaying credit of how often and how surely; the logarithm of one plus the
// credit is added to the token's logit before the threshold. Only tokens that were ever likeliest
// have credit, so nothing is as large as the vocabulary.
#pragma once

#include <map>

#include "decode/diffusion/policy.h"

namespace tutti::decode::diffusion {

class Credit : public Policy {
 public:
  // Throws Error(kUsage) for options out of range.
  explicit Credit(const PolicyOptions& options);
  void begin_block(int open) override;
  std::vector<int> choose(const Step& step, std::vector<Prediction>& predictions) override;
  std::vector<int32_t> listed(int position) const override;

  // Credit of `token` at `position`; 0 when it has none.
  double credit(int position, int32_t token) const;

 private:
  struct Entry {
    int32_t token;
    double credit;
  };
  void earn(Prediction& p, double decay, double gamma);
  void fuse(Prediction& p, double alpha) const;

  PolicyOptions options_;
  int open_at_start_ = 0;
  std::map<int, std::vector<Entry>> entries_;  // by position
};

}  // namespace tutti::decode::diffusion
