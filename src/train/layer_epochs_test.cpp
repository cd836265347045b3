// What rows see that enter and leave between layers: compared with a plain rule, layer by layer.
#include "train/layer_epochs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/draws.h"

namespace tutti::train {
namespace {

using Seen = std::set<std::pair<int, int>>;  // page and slot

Seen seen_in(const models::Batch& batch, const models::RunSpan& span) {
  Seen seen;
  for (int i = 0; i < span.count; ++i) {
    const tensor::KvRun& run = batch.runs[size_t(span.first + i)];
    for (int s = run.first; s < run.first + run.count; ++s) seen.insert({run.page, s});
  }
  EXPECT_EQ(int(seen.size()), span.keys);
  return seen;
}

TEST(LayerEpochs, ARowSeesTheCacheAndTheRowsThatAreThere) {
  Draws draws(6);
  for (int round = 0; round < 100; ++round) {
    const int rows = 1 + draws.below(8), layers = 1 + draws.below(5);
    models::Batch batch;
    models::Epoch all;
    all.last_layer = layers;
    for (int r = 0; r < rows; ++r) {
      batch.inputs.emplace_back();
      batch.slots.push_back({1, 2 * r});  // the cache holds page 0
      const int enter = draws.below(layers + 1);
      batch.active.push_back({enter, draws.chance(0.3) ? enter + draws.below(layers) : layers});
      all.rows.push_back(r);
      models::RunSpan span{int(batch.runs.size()), 2, 0, 0};
      batch.runs.push_back({0, uint8_t(draws.below(4)), uint8_t(1 + draws.below(20)), 0});
      batch.runs.push_back({1, 0, uint8_t(2 * r + 1), 0});  // odd slots hold nobody's row: cache
      all.full.push_back(span);
    }
    const models::Batch before = batch;
    batch.epochs.push_back(all);
    const auto sees = [](int row, int other) { return (row + other) % 3 != 0; };
    split_epochs(batch, layers, sees);
    int next = 0;
    for (const models::Epoch& epoch : batch.epochs) {
      EXPECT_EQ(epoch.first_layer, next);
      next = epoch.last_layer;
      for (int layer = epoch.first_layer; layer < epoch.last_layer; ++layer) {
        std::vector<int> active;
        for (int r = 0; r < rows; ++r) {
          const auto& range = batch.active[size_t(r)];
          if (range.enter <= layer && layer < range.leave) active.push_back(r);
        }
        ASSERT_EQ(epoch.rows, active);
        for (size_t i = 0; i < active.size(); ++i) {
          const int row = active[i];
          Seen expected;
          const auto& cached = before.runs[size_t(2 * row)];
          for (int s = cached.first; s < cached.first + cached.count; ++s) expected.insert({0, s});
          for (int s = 0; s <= 2 * row; ++s) {
            const bool here = std::ranges::find(active, s / 2) != active.end();
            if (s % 2 == 1 || s / 2 == row || (here && sees(row, s / 2))) expected.insert({1, s});
          }
          EXPECT_EQ(seen_in(batch, epoch.full[i]), expected);
        }
      }
    }
    EXPECT_EQ(next, layers);
  }
}

}  // namespace
}  // namespace tutti::train
