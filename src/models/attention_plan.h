// How workers share the attention of a forward's rows on one kind of layer: evenly by visible keys.
// A KV head that falls to several workers is split by its query heads, each worker reading all of
// its slots; or, of a row alone with much to read, by keys and dimensions (tensor/attend_steps.h):
// then every slot is read once, for two barriers more. Results do not depend on it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/batch.h"
#include "models/config.h"
#include "models/row_groups.h"

namespace tutti::models {

struct AttentionPlan {
  // Query heads [first, last) of groups[group], which a worker computes by itself.
  struct Heads {
    int group, first, last;
  };
  // A KV head of a row that workers [first_worker, last_worker) compute together.
  struct SharedHead {
    int row;  // entry of the epoch's active rows
    int kv_head;
    int first_worker, last_worker;
    size_t scores;  // where its [query heads][keys] begin in the shared work space
  };
  // A worker's part of shared[head]: its runs, counted from the row's first, and its dimensions.
  struct Part {
    int head;
    int first_run, last_run;
    int first_key;  // that first_run begins with
    int first_dim, last_dim;
  };
  struct Share {
    std::vector<Heads> heads;
    std::vector<Part> parts;  // at most two
  };

  std::vector<RowGroup> groups;
  std::vector<SharedHead> shared;
  std::vector<Share> shares;  // by worker
  size_t shared_scores = 0;   // floats of the shared work space
};

// Visible keys times head_dim from which a KV head is worth two barriers and the weights that cross
// between cores: on two cores of Zen 4, 64 keys of 256 lost 4 % of a token's time, 256 keys of 64
// gained little, and 512 of either gained 4 %.
inline constexpr int64_t kSharedHeadWork = 32768;

// The plan for the epoch's active rows; `spans` are their runs on one kind of layer.
AttentionPlan plan_attention(const Config& config, const Batch& batch, const Epoch& epoch,
                             std::span<const RunSpan> spans, int workers);

}  // namespace tutti::models
