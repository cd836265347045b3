#include "decode/diffusion/oracle.h"

#include <cmath>

namespace tutti::decode::diffusion {

std::vector<int> Oracle::choose(const Step& step, std::vector<Prediction>& predictions) {
  FilterRecord record;
  record.step = step.index;
  std::vector<int> open, right;
  for (size_t i = 0; i < predictions.size(); ++i) {
    const Prediction& p = predictions[i];
    const bool is_right = p.token == reference_[size_t(p.position)];
    record.probability.push_back(p.probability);
    record.right.push_back(is_right);
    if (!p.open) continue;
    open.push_back(int(i));
    if (is_right) right.push_back(int(i));
  }
  if (records_) records_->push_back(std::move(record));
  if (!right.empty()) return right;
  if (stuck_) ++*stuck_;
  for (const int i : open) {
    predictions[size_t(i)].token = reference_[size_t(predictions[size_t(i)].position)];
    predictions[size_t(i)].log_probability = -INFINITY;  // the model did not say so
  }
  return open;
}

}  // namespace tutti::decode::diffusion
