// RowOps::attention_mass: how a row shares its attention out, for reports (which passage was read).
// Not on the way to the logits; it attends again, range by range, and compares log-sum-exps.
#include <algorithm>
#include <cmath>
#include <vector>

#include "models/row_ops.h"

namespace tutti::models {
namespace {

// log-sum-exp of one class's scores among `runs`, for each query head of the group; -inf where
// there is none.
void class_lse(const tensor::Kernels& kernels, tensor::AttendParams params, const float* q,
               std::span<const tensor::KvRun> runs, int softmax_class, std::vector<float>& out,
               float* lse, float* scratch) {
  std::vector<tensor::KvRun> of_class;
  for (const auto& run : runs) {
    if (run.softmax_class == softmax_class) of_class.push_back(run);
  }
  for (auto& c : params.classes) c.lse_scale = 1;
  kernels.attend(params, q, of_class.data(), int(of_class.size()), out.data(), lse, scratch);
}

}  // namespace

void RowOps::attention_mass(int layer, tensor::AttendParams params, Rows qkv, float* scratch) {
  const bool slides = config_.is_sliding(layer);
  const auto& spans = slides ? epoch_->sliding : epoch_->full;
  const auto& ranges = slides ? epoch_->mass_sliding : epoch_->mass_full;
  const int d = config_.head_dim, group = config_.heads / config_.kv_heads;
  params.group = group;
  std::vector<float> out(size_t(group * d)), all(static_cast<size_t>(group)),
      part(static_cast<size_t>(group));
  size_t first_range = 0;
  for (size_t m = 0; m < batch_.mass.size(); first_range += size_t(batch_.mass[m++].ranges)) {
    if (int(m) % worker_.count() != worker_.index()) continue;
    const MassWant& want = batch_.mass[m];
    const auto row =
        std::lower_bound(epoch_->rows.begin(), epoch_->rows.end(), want.row) - epoch_->rows.begin();
    set_classes(want.row, params);
    const auto runs_of = [&](const RunSpan& span) {
      return std::span(batch_.runs).subspan(size_t(span.first), size_t(span.count));
    };
    std::vector<double> mass(size_t(want.ranges), 0.0);
    for (int kv = 0; kv < config_.kv_heads; ++kv) {
      params.kv_head = kv;
      const float* q = qkv.data + size_t(row) * size_t(qkv.width) + kv * group * d;
      // Each class's share of a head, and within the class each range's.
      std::vector<double> class_weight(size_t(tensor::kMaxSoftmaxClasses * group));
      std::vector<double> total(size_t(group), 0.0);
      std::vector<float> class_log(size_t(tensor::kMaxSoftmaxClasses * group));
      for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
        class_lse(k_, params, q, runs_of(spans[size_t(row)]), c, out, all.data(), scratch);
        for (int g = 0; g < group; ++g) {
          class_log[size_t(c * group + g)] = all[size_t(g)];
          if (std::isinf(all[size_t(g)])) continue;
          class_weight[size_t(c * group + g)] =
              double(params.classes[c].lse_scale) * double(all[size_t(g)]);
        }
      }
      for (int g = 0; g < group; ++g) {
        double top = -HUGE_VAL;
        for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
          if (!std::isinf(class_log[size_t(c * group + g)]))
            top = std::max(top, class_weight[size_t(c * group + g)]);
        }
        for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
          double& w = class_weight[size_t(c * group + g)];
          w = std::isinf(class_log[size_t(c * group + g)]) ? 0.0 : std::exp(w - top);
          total[size_t(g)] += w;
        }
      }
      for (int r = 0; r < want.ranges; ++r) {
        const auto runs = runs_of(ranges[first_range + size_t(r)]);
        for (int c = 0; c < tensor::kMaxSoftmaxClasses; ++c) {
          class_lse(k_, params, q, runs, c, out, part.data(), scratch);
          for (int g = 0; g < group; ++g) {
            if (std::isinf(part[size_t(g)])) continue;
            mass[size_t(r)] +=
                std::exp(double(part[size_t(g)]) - double(class_log[size_t(c * group + g)])) *
                class_weight[size_t(c * group + g)] / total[size_t(g)];
          }
        }
      }
    }
    for (int r = 0; r < want.ranges; ++r) {
      want.out[size_t(layer) * size_t(want.ranges) + size_t(r)] =
          float(mass[size_t(r)] / config_.heads);
    }
  }
}

}  // namespace tutti::models
