// The distance of what some states say from what others say, through one frozen head, a chunk of
// rows at a time (head_loss.h has the reasons).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tutti::train {

struct DistilOptions {
  int64_t chunk = 0;  // rows; 0: so that the logits of both sides take 64 MiB
};

// sum over rows of weight * KL(softmax(teacher head^T) || softmax(states head^T)), in nats, fp32.
// `states` and `teacher` are [rows, hidden], `head` is [vocab, hidden]; the gradient is of `states`
// alone.
at::Tensor distil_loss(const at::Tensor& states, const at::Tensor& teacher, const at::Tensor& head,
                       const std::vector<float>& weights, const DistilOptions& options = {});

}  // namespace tutti::train
