#include "models/row_groups.h"

#include <algorithm>

namespace tutti::models {
namespace {

bool same(const tensor::KvRun& a, const tensor::KvRun& b) {
  return a.page == b.page && a.first == b.first && a.count == b.count &&
         a.softmax_class == b.softmax_class;
}

}  // namespace

std::vector<RowGroup> group_rows(const Batch& batch, const Epoch& epoch,
                                 std::span<const RunSpan> spans, int heads) {
  const auto runs_of = [&](int i) {
    const RunSpan& span = spans[size_t(i)];
    return std::span(batch.runs).subspan(size_t(span.first), size_t(span.count));
  };
  std::vector<RowGroup> groups;
  const int rows = int(spans.size());
  for (int i = 0; i < rows;) {
    RowGroup group{i, 1, 0, spans[size_t(i)].keys};
    const auto first = runs_of(i);
    int shared = int(first.size());
    for (int next = i + 1; shared > 0 && next < rows && group.count < tensor::kMaxSharedRows;
         ++next) {
      if ((group.keys + spans[size_t(next)].keys) * heads > kGroupScores) break;
      if (!batch.row_classes.empty() && batch.row_classes[size_t(epoch.rows[size_t(i)])] !=
                                            batch.row_classes[size_t(epoch.rows[size_t(next)])]) {
        break;
      }
      const auto runs = runs_of(next);
      int alike = 0, keys = 0;
      while (alike < std::min(shared, int(runs.size())) &&
             same(first[size_t(alike)], runs[size_t(alike)])) {
        keys += runs[size_t(alike++)].count;
      }
      // What is shared must outweigh what each row reads alone.
      if (alike == 0 || 2 * keys < spans[size_t(next)].keys) break;
      shared = alike;
      ++group.count;
      group.keys += spans[size_t(next)].keys;
    }
    if (group.count > 1) group.shared = shared;
    groups.push_back(group);
    i += group.count;
  }
  return groups;
}

}  // namespace tutti::models
