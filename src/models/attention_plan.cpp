#include "models/attention_plan.h"

#include <algorithm>

namespace tutti::models {
namespace {

constexpr int64_t kRowCost = 16;  // a row's fixed cost, in keys
constexpr int kDimUnit = 16;      // dimensions that cannot be split

class Planner {
 public:
  Planner(const Config& config, const Batch& batch, std::span<const RunSpan> spans, int workers,
          AttentionPlan& plan)
      : config_(config), batch_(batch), spans_(spans), plan_(plan) {
    plan_.shares.resize(size_t(workers));
    int64_t total = 0;
    for (const auto& g : plan_.groups) total += cost_of(g) * config_.heads;
    for (int w = 0; w <= workers; ++w) borders_.push_back(total * w / workers);
  }

  void run() {
    const int per_kv_head = config_.heads / config_.kv_heads;
    int64_t at = 0;
    for (int g = 0; g < int(plan_.groups.size()); ++g) {
      const int64_t cost = cost_of(plan_.groups[size_t(g)]);
      for (int kv = 0; kv < config_.kv_heads; ++kv, at += cost * per_kv_head) {
        place(g, kv, per_kv_head, at, cost);
      }
    }
  }

 private:
  static int64_t cost_of(const RowGroup& g) { return g.keys + kRowCost * g.count; }

  // A KV head whose query heads cost `cost` each and lie from `at` on in the sum of all costs.
  void place(int group, int kv_head, int heads, int64_t at, int64_t cost) {
    const int64_t end = at + cost * heads;
    const auto after = [&](int64_t x) {
      return int(std::upper_bound(borders_.begin(), borders_.end(), x) - borders_.begin());
    };
    const int first = after(at) - 1, last = after(end - 1);  // workers that it falls to
    if (last - first > 1 && worth_sharing(plan_.groups[size_t(group)])) {
      share(plan_.groups[size_t(group)].first, kv_head, heads, at, end, first, last);
      return;
    }
    // A query head belongs to the worker in whose share it starts.
    for (int h = 0; h < heads; ++h) {
      auto& own = plan_.shares[size_t(after(at + cost * h) - 1)].heads;
      const int head = kv_head * heads + h;
      if (!own.empty() && own.back().group == group && own.back().last == head) {
        ++own.back().last;
      } else {
        own.push_back({group, head, head + 1});
      }
    }
  }

  // Networks with relative positions add terms to each query head's scores.
  bool worth_sharing(const RowGroup& g) const {
    return g.count == 1 && !config_.relative && g.keys * config_.head_dim >= kSharedHeadWork;
  }

  void share(int row, int kv_head, int heads, int64_t at, int64_t end, int first, int last) {
    const RunSpan& span = spans_[size_t(row)];
    const int units = config_.head_dim / kDimUnit;
    AttentionPlan::Part part{int(plan_.shared.size()), 0, 0, 0, 0, 0};
    int key = 0;
    for (int w = first; w < last; ++w) {
      part.first_run = part.last_run;
      part.first_key = key;
      part.first_dim = part.last_dim;
      const int64_t done = std::min(borders_[size_t(w) + 1], end) - at;
      // A run belongs to the worker in whose share it starts.
      while (part.last_run < span.count && key * (end - at) < done * span.keys) {
        key += batch_.runs[size_t(span.first + part.last_run++)].count;
      }
      part.last_dim = int((done * units + (end - at) / 2) / (end - at)) * kDimUnit;
      plan_.shares[size_t(w)].parts.push_back(part);
    }
    plan_.shared.push_back({row, kv_head, first, last, plan_.shared_scores});
    plan_.shared_scores += size_t(heads) * size_t(span.keys);
  }

  const Config& config_;
  const Batch& batch_;
  std::span<const RunSpan> spans_;
  AttentionPlan& plan_;
  std::vector<int64_t> borders_;  // where workers' shares begin in the sum of all costs; its end
};

}  // namespace

AttentionPlan plan_attention(const Config& config, const Batch& batch, const Epoch& epoch,
                             std::span<const RunSpan> spans, int workers) {
  AttentionPlan plan;
  plan.groups = group_rows(batch, epoch, spans, config.heads / config.kv_heads);
  Planner(config, batch, spans, workers, plan).run();
  return plan;
}

}  // namespace tutti::models
