// Attention as CPU kernels (row_ops.h): each worker takes its share of an AttentionPlan.
#include <algorithm>

#include "models/row_ops.h"

namespace tutti::models {

void RowWorkspace::prepare_attention(const Config& c, const Batch& batch, int workers) {
  const int group = c.heads / c.kv_heads;
  int64_t most_keys = 0;
  full_plans.clear();
  sliding_plans.clear();
  for (const auto& epoch : batch.epochs) {
    full_plans.push_back(plan_attention(c, batch, epoch, epoch.full, workers));
    sliding_plans.push_back(plan_attention(c, batch, epoch, epoch.sliding, workers));
    for (const AttentionPlan* plan : {&full_plans.back(), &sliding_plans.back()}) {
      for (const auto& g : plan->groups) most_keys = std::max(most_keys, g.keys);
      const size_t maxima = plan->shared.size() * size_t(workers) * size_t(group);
      if (shared_scores.size() < plan->shared_scores) shared_scores.resize(plan->shared_scores);
      if (shared_maxima.size() < maxima) shared_maxima.resize(maxima);
    }
  }
  const size_t most = size_t(group * most_keys + tensor::kPageSlots * c.head_dim);
  scores.resize(size_t(workers));
  for (auto& s : scores) {
    if (s.size() < most) s.resize(most);
  }
}

void RowOps::set_classes(int row, tensor::AttendParams& params) const {
  if (batch_.row_classes.empty()) return;
  const auto& classes = batch_.row_classes[size_t(row)];
  for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
    params.classes[c] = size_t(c) < classes.size() ? classes[size_t(c)] : tensor::SoftmaxClass{};
  }
}

tensor::AttendParams RowOps::attend_params(int layer) const {
  tensor::AttendParams params;
  params.pages = shared_.kv.pages;
  params.layout = shared_.kv.layout;
  params.layer = layer;
  params.scale = config_.attention_scale;
  params.cap = config_.attention_cap;
  params.class_count = tensor::kMaxSoftmaxClasses;
  std::copy(std::begin(batch_.classes), std::end(batch_.classes), std::begin(params.classes));
  return params;
}

std::span<const RunSpan> RowOps::spans(int layer) const {
  return config_.is_sliding(layer) ? epoch_->sliding : epoch_->full;
}

const AttentionPlan& RowOps::attention_plan(int layer) const {
  const auto& by_epoch = config_.is_sliding(layer) ? space_.sliding_plans : space_.full_plans;
  return by_epoch[size_t(epoch_ - batch_.epochs.data())];
}

RowOps::Rows RowOps::attend(int layer, Rows qkv) {
  const tensor::AttendParams params = attend_params(layer);
  const AttentionPlan& plan = attention_plan(layer);
  for (const auto& own : plan.shares[size_t(worker_.index())].heads) {
    attend_heads(params, qkv, spans(layer), plan.groups[size_t(own.group)], own.first, own.last);
  }
  if (!plan.shared.empty()) attend_parts(params, qkv, spans(layer), plan);
  if (!batch_.mass.empty()) {
    attention_mass(layer, params, qkv, space_.scores[size_t(worker_.index())].data());
  }
  worker_.barrier();
  return {space_.attended.data(), config_.heads * config_.head_dim};
}

void RowOps::attend_heads(tensor::AttendParams params, Rows qkv, std::span<const RunSpan> spans,
                          const RowGroup& g, int first, int last) {
  const int d = config_.head_dim, group = config_.heads / config_.kv_heads;
  const int width = config_.heads * d;
  float* scratch = space_.scores[size_t(worker_.index())].data();
  set_classes(epoch_->rows[size_t(g.first)], params);
  for (int h = first; h < last; h += params.group) {
    params.kv_head = h / group;
    params.group = std::min(last, (params.kv_head + 1) * group) - h;
    tensor::AttendRow rows[tensor::kMaxSharedRows];
    for (int i = 0; i < g.count; ++i) {
      const RunSpan& span = spans[size_t(g.first + i)];
      rows[i] = {qkv.data + size_t(g.first + i) * size_t(qkv.width) + h * d,
                 batch_.runs.data() + span.first, span.count,
                 space_.attended.data() + size_t(g.first + i) * size_t(width) + h * d};
    }
    if (g.count > 1) {
      k_.attend_shared(params, rows, g.count, g.shared, scratch);
    } else {
      k_.attend(params, rows[0].q, rows[0].runs, rows[0].run_count, rows[0].out, nullptr, scratch);
    }
  }
}

tensor::AttendMaxima* RowOps::part_maxima(int shared_head, int worker) {
  const int group = config_.heads / config_.kv_heads;
  return space_.shared_maxima.data() + size_t((shared_head * worker_.count() + worker) * group);
}

void RowOps::attend_parts(tensor::AttendParams params, Rows qkv, std::span<const RunSpan> spans,
                          const AttentionPlan& plan) {
  const int group = config_.heads / config_.kv_heads, wide = group * config_.head_dim;
  const auto each_part = [&](const auto& step) {
    for (const auto& part : plan.shares[size_t(worker_.index())].parts) {
      const auto& head = plan.shared[size_t(part.head)];
      const RunSpan& span = spans[size_t(head.row)];
      params.kv_head = head.kv_head;
      params.group = group;
      set_classes(epoch_->rows[size_t(head.row)], params);
      step(part, head, span, std::span(batch_.runs).subspan(size_t(span.first), size_t(span.count)),
           space_.shared_scores.data() + head.scores);
    }
  };
  each_part([&](const auto& part, const auto& head, const RunSpan& span, auto runs, float* scores) {
    const float* q = qkv.data + size_t(head.row) * size_t(qkv.width) + head.kv_head * wide;
    steps_.scores(params, q, runs.data() + part.first_run, part.last_run - part.first_run,
                  scores + part.first_key, size_t(span.keys),
                  part_maxima(part.head, worker_.index()));
  });
  worker_.barrier();
  each_part([&](const auto& part, const auto& head, const RunSpan& span, auto runs, float* scores) {
    steps_.weights(params, runs.data() + part.first_run, part.last_run - part.first_run,
                   part_maxima(part.head, head.first_worker), head.last_worker - head.first_worker,
                   scores + part.first_key, size_t(span.keys));
  });
  worker_.barrier();
  each_part([&](const auto& part, const auto& head, const RunSpan& span, auto runs, float* scores) {
    float* out = space_.attended.data() +
                 size_t(head.row) * size_t(config_.heads * config_.head_dim) + head.kv_head * wide;
    steps_.values(params, runs.data(), int(runs.size()), part_maxima(part.head, head.first_worker),
                  head.last_worker - head.first_worker, scores, size_t(span.keys), part.first_dim,
                  part.last_dim, out);
  });
}

}  // namespace tutti::models
