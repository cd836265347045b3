// What rows see, against the definitions of sheet 00, pair by pair.
#include "train/sequence.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace tutti::train {
namespace {

Sequence sequence(Sight sight, int n, int block) {
  Sequence s;
  s.sight = sight;
  s.block = block;
  const int rows = sight == Sight::kBlockDiffusion ? 2 * n : n;
  for (int i = 0; i < rows; ++i) {
    s.tokens.push_back(i % 7);
    s.positions.push_back(i % n);
  }
  return s;
}

// The sheet's words, for a query row i and a key row j.
bool defined_to_see(const Sequence& s, int i, int j) {
  const int n = s.sight == Sight::kBlockDiffusion ? s.rows() / 2 : s.rows();
  const auto block = [&](int row) { return (row % n) / s.block; };
  const auto noisy = [&](int row) { return row < n; };  // a row of x_t
  switch (s.sight) {
    case Sight::kCausal:
      return j <= i;
    case Sight::kFull:
      return true;
    case Sight::kBlockCausal:
      return block(j) <= block(i);
    case Sight::kBlockDiffusion:
      return (block(i) == block(j) && noisy(i) == noisy(j)) ||
             (noisy(i) && !noisy(j) && block(j) < block(i)) ||
             (!noisy(i) && !noisy(j) && block(j) <= block(i));
    case Sight::kAnchored:
      break;  // anchored_test.cpp
    case Sight::kOrder:
      break;  // by ranks, which loss_rows_test.cpp has
  }
  return false;
}

const Sight kSights[] = {Sight::kCausal, Sight::kFull, Sight::kBlockCausal, Sight::kBlockDiffusion};

TEST(Sequence, RowsSeeWhatTheDefinitionSays) {
  for (const Sight sight : kSights) {
    for (int n = 1; n <= 13; ++n) {
      for (int block = 1; block <= 6; ++block) {
        const Sequence s = sequence(sight, n, block);
        for (int i = 0; i < s.rows(); ++i) {
          std::set<int> seen;
          int before = -1;
          for (const RowRange& range : visible(s, i)) {
            EXPECT_GT(range.count, 0);
            for (int j = range.first; j < range.first + range.count; ++j) {
              EXPECT_GT(j, before) << "ascending, no row twice";
              before = j;
              seen.insert(j);
            }
          }
          for (int j = 0; j < s.rows(); ++j) {
            ASSERT_EQ(seen.contains(j), defined_to_see(s, i, j))
                << "kind " << int(sight) << ", n " << n << ", block " << block << ", row " << i
                << " and " << j;
          }
        }
      }
    }
  }
}

// The rows that a span of the batch names.
std::set<int> rows_of(const models::Batch& batch, const models::RunSpan& span) {
  std::set<int> rows;
  int keys = 0;
  for (int r = 0; r < span.count; ++r) {
    const tensor::KvRun& run = batch.runs[size_t(span.first + r)];
    EXPECT_LE(run.first + run.count, tensor::kPageSlots);
    for (int s = run.first; s < run.first + run.count; ++s) {
      for (int row = 0; row < batch.rows(); ++row) {
        const auto& slot = batch.slots[size_t(row)];
        if (slot.page == run.page && slot.slot == s) rows.insert(row);
      }
      ++keys;
    }
  }
  EXPECT_EQ(keys, span.keys);
  EXPECT_EQ(int(rows.size()), keys);
  return rows;
}

TEST(Sequence, ABatchKeepsSequencesApartAndWindowsNarrow) {
  models::Config config;
  config.layers = 3;
  config.window = 5;
  config.sliding = {true, false, true};
  std::vector<Sequence> sequences;
  for (const Sight sight : kSights) sequences.push_back(sequence(sight, 19, 4));
  sequences.push_back(sequence(Sight::kCausal, 70, 1));  // over three pages
  const models::Batch batch = plan_batch(config, sequences);
  ASSERT_EQ(batch.epochs.size(), 1u);
  const models::Epoch& epoch = batch.epochs.front();
  EXPECT_EQ(epoch.first_layer, 0);
  EXPECT_EQ(epoch.last_layer, 3);
  int base = 0;
  for (const Sequence& s : sequences) {
    for (int i = 0; i < s.rows(); ++i) {
      std::set<int> full, sliding;
      for (int j = 0; j < s.rows(); ++j) {
        if (!defined_to_see(s, i, j)) continue;
        full.insert(base + j);
        if (s.positions[size_t(i)] - config.window < s.positions[size_t(j)])
          sliding.insert(base + j);
      }
      EXPECT_EQ(rows_of(batch, epoch.full[size_t(base + i)]), full);
      EXPECT_EQ(rows_of(batch, epoch.sliding[size_t(base + i)]), sliding);
      EXPECT_EQ(batch.positions[size_t(base + i)].t, s.positions[size_t(i)]);
      EXPECT_EQ(batch.inputs[size_t(base + i)].token, s.tokens[size_t(i)]);
    }
    base += s.rows();
  }
  EXPECT_EQ(base, batch.rows());
}

TEST(Sequence, PlainTextIsSeenAsTheModelSays) {
  models::Config config;
  EXPECT_EQ(plain_sequence(config, {1, 2, 3}).sight, Sight::kCausal);
  config.attention = models::AttentionKind::kBidirectional;
  EXPECT_EQ(plain_sequence(config, {1, 2, 3}).sight, Sight::kFull);
  config.attention = models::AttentionKind::kBlockCausal;
  config.attention_block = 4;
  const Sequence s = plain_sequence(config, {1, 2, 3});
  EXPECT_EQ(s.sight, Sight::kBlockCausal);
  EXPECT_EQ(s.block, 4);
  EXPECT_EQ(s.positions, (std::vector<int32_t>{0, 1, 2}));
}

}  // namespace
}  // namespace tutti::train
