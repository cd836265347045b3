#include "train/layer_epochs.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace tutti::train {
namespace {

using Slots = std::map<std::pair<int, int>, int>;  // (page, slot): the row that fills it

bool active(const models::Batch& batch, int row, int layer) {
  const models::LayerRange& range = batch.active[size_t(row)];
  return range.enter <= layer && layer < range.leave;
}

// The part of `whole` for which `stays(slot's row, or -1)` holds, as runs of their own.
template <class Stays>
models::RunSpan filtered(models::Batch& batch, const models::RunSpan& whole, const Slots& slots,
                         const Stays& stays) {
  models::RunSpan span;
  span.first = int(batch.runs.size());
  for (int i = 0; i < whole.count; ++i) {
    const tensor::KvRun run = batch.runs[size_t(whole.first + i)];
    bool open = false;
    for (int s = run.first; s < run.first + run.count; ++s) {
      const auto filled = slots.find({run.page, s});
      const bool seen = stays(filled == slots.end() ? -1 : filled->second);
      if (seen && open) {
        ++batch.runs.back().count;
      } else if (seen) {
        batch.runs.push_back({run.page, uint8_t(s), 1, run.softmax_class});
      }
      open = seen;
      span.keys += seen;
    }
  }
  span.count = int(batch.runs.size()) - span.first;
  return span;
}

}  // namespace

void split_epochs(models::Batch& batch, int layers,
                  const std::function<bool(int row, int other)>& sees) {
  Slots slots;
  std::set<int> cuts{0, layers};
  for (int r = 0; r < batch.rows(); ++r) {
    slots[{batch.slots[size_t(r)].page, batch.slots[size_t(r)].slot}] = r;
    models::LayerRange& range = batch.active[size_t(r)];
    range.enter = std::clamp(range.enter, 0, layers);
    range.leave = std::clamp(range.leave, range.enter, layers);
    cuts.insert({range.enter, range.leave});
  }
  const models::Epoch whole = std::move(batch.epochs.front());
  batch.epochs.clear();
  for (auto cut = cuts.begin(); std::next(cut) != cuts.end(); ++cut) {
    models::Epoch epoch;
    epoch.first_layer = *cut;
    epoch.last_layer = *std::next(cut);
    for (int r = 0; r < batch.rows(); ++r) {
      if (!active(batch, r, *cut)) continue;
      const auto stays = [&](int other) {
        return other < 0 || other == r || (active(batch, other, *cut) && sees(r, other));
      };
      epoch.rows.push_back(r);
      epoch.full.push_back(filtered(batch, whole.full[size_t(r)], slots, stays));
      if (!whole.sliding.empty())
        epoch.sliding.push_back(filtered(batch, whole.sliding[size_t(r)], slots, stays));
    }
    batch.epochs.push_back(std::move(epoch));
  }
}

}  // namespace tutti::train
