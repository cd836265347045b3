// Who attends to whom in one forward, as dense groups: rows that share keys, however far apart they
// stand in the batch. The sequences of a training step see only themselves, so a step of many
// sequences costs the sum of their squares and not the square of their sum.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/batch.h"

namespace tutti::models {

// Groups of one size, computed together: G groups of r rows and k keys.
struct AttentionBucket {
  // What one softmax class sees.
  struct Class {
    at::Tensor hidden;     // bool [G, 1, r, k]; undefined: every row sees every key
    at::Tensor log_count;  // double [G, 1, r, k]: ln of how often a row sees a key; undefined: at
                           // most once
    bool blind = false;    // some row sees no key of this class
    // Of the class in each row, [G, 1, r, 1] float; undefined: all ones.
    at::Tensor inverse_temperature, lse_scale;
  };
  int64_t groups = 0, rows = 0, keys = 0;
  at::Tensor row_index;  // [G * r] into the epoch's active rows; undefined: all of them, in order
  at::Tensor key_index;  // [G * k] into earlier slots followed by the batch's rows; undefined: the
                         // batch's rows, in order, and there are no earlier slots
  std::vector<Class> classes;  // those in use; at least one
};

struct AttentionGroups {
  std::vector<AttentionBucket> buckets;
  at::Tensor order;  // [active]: where each row's output stands after the buckets'; undefined: in
                     // its own place
};

// `spans` is the epoch's full or sliding; `slots` counts the slots of earlier forwards (0: none is
// kept). The tensors lie on the device.
AttentionGroups attention_groups(const Batch& batch, const Epoch& epoch,
                                 const std::vector<RunSpan>& spans, int64_t slots,
                                 at::Device device = at::kCPU);

}  // namespace tutti::models
