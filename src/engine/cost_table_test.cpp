// The cost table on simulated machines, whose every forward takes a known time: chunks of a long
// prompt beside streams keep a tick within its time, from the first measurement to the last row,
// and do not waste it either.
#include "engine/cost_table.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/philox.h"

namespace tutti::engine {
namespace {

struct Machine {
  double forward, row, key,
      noise;  // seconds: per forward, per row, per visible key; relative spread
  double seconds(const TickLoad& load, float u) const {
    return (forward + row * load.rows + key * load.keys) * (1 + noise * (double(u) - 0.5));
  }
};

TEST(CostTable, ChunksOfALongPromptKeepTheTicksTime) {
  const Machine machines[] = {
      {0.004, 0.25e-3, 0.06e-6, 0.0},  // as SmolLM2 on two cores
      {0.004, 0.25e-3, 0.06e-6, 0.3},  // the same, noisy
      {0.012, 0.02e-3, 0.30e-6, 0.1},  // cheap rows, dear keys
      {0.001, 1.0e-3, 0.001e-6, 0.1},  // all in the rows
  };
  for (const Machine& machine : machines) {
    DrawKey key;
    key.purpose = Purpose::kTest;
    uint32_t draws = 0;
    CostTable cost;
    double worst = 0, total = 0;
    int ticks = 0;
    for (int done = 0; done < 4096; ++ticks) {
      // Four streams at depth 100 and more; the prompt's next chunk beside them.
      const TickLoad streams = TickLoad().with(4, 100 + ticks);
      const int rows =
          std::min(4096 - done, std::max(1, cost.rows_within(0.040, streams, done, 512, 32)));
      const TickLoad load = streams.with(rows, done);
      const double seconds = machine.seconds(load, uniform_open(draw_word(key, draws++)));
      cost.record(load.rows, load.mean_keys(), seconds);
      done += rows;
      total += seconds;
      worst = std::max(worst, seconds);
    }
    EXPECT_LE(worst, 0.060) << machine.row;
    EXPECT_GE(total / ticks, 0.020) << machine.row;  // half of the time is used at least
  }
}

TEST(CostTable, BetweenMeasuredRowsTimeGoesAlongALine) {
  CostTable cost;
  EXPECT_FALSE(cost.measured(1, 100));
  CostTable prompts;
  prompts.record(30, 100, 0.2);
  EXPECT_FALSE(prompts.measured(8, 100));  // a prompt tells nothing about a single row
  for (const int rows : {1, 2, 5, 9}) {
    for (int i = 0; i < 20; ++i) cost.record(rows, 100, 0.004 + 0.001 * rows);
  }
  for (const int rows : {1, 2, 3, 4, 5, 7, 8, 9}) {
    ASSERT_TRUE(cost.measured(rows, 100)) << rows;
    EXPECT_NEAR(*cost.measured(rows, 100), 0.004 + 0.001 * rows, 1e-9) << rows;
  }
  EXPECT_NEAR(*cost.measured(12, 100), 0.016, 1e-9);  // about as many as 9
  EXPECT_FALSE(cost.measured(32, 100));
  cost.record(64, 100, 0.068);
  EXPECT_NEAR(*cost.measured(16, 100), 0.020, 1e-9);  // between 9 and 64
  // Another depth: what is known of this one counts first.
  for (int i = 0; i < 20; ++i) cost.record(5, 3000, 0.030);
  EXPECT_NEAR(*cost.measured(5, 3000), 0.030, 1e-9);
  EXPECT_NEAR(*cost.measured(5, 120), 0.009, 1e-9);
  // After an outlier the line between two points does not go down.
  for (int i = 0; i < 20; ++i) cost.record(2, 100, 0.100);
  EXPECT_GT(*cost.measured(2, 100), 0.09);
  EXPECT_EQ(*cost.measured(3, 100), *cost.measured(2, 100));
}

// Kernels whose tiles hold two rows, or eight: the fifth, or the seventeenth, costs a part of a
// forward, the one behind it little.
TEST(CostTable, StepsBetweenNumbersOfRowsAreKept) {
  for (const int tile : {2, 8}) {
    CostTable cost;
    const auto seconds = [&](int rows) {
      return 0.001 + 0.00065 * tile * ((rows + tile - 1) / tile);
    };
    for (int i = 0; i < 20; ++i) {
      for (int rows = 1; rows <= 70; ++rows) cost.record(rows, 100, seconds(rows));
    }
    for (int rows = 1; rows <= 64; ++rows)
      EXPECT_NEAR(*cost.measured(rows, 100), seconds(rows), 1e-9) << tile << ", " << rows;
  }
}

TEST(CostTable, NothingFitsIntoNoTime) {
  CostTable known;
  known.record(1, 0, 0.001);
  known.record(2000, 100, 1.0);
  EXPECT_EQ(known.predict(0, 0), 0);
  EXPECT_NEAR(known.predict(4000, 100), 2.0, 1e-9);
  CostTable cost;
  EXPECT_EQ(cost.rows_within(0.04, {}, 0, 512, 32), 32);
  EXPECT_EQ(cost.rows_within(0.04, {}, 0, 5, 32), 5);
  cost.record(4, 100, 0.050);
  EXPECT_EQ(cost.rows_within(0.04, TickLoad().with(4, 100), 0, 512, 32), 0);
  EXPECT_EQ(cost.rows_within(0.04, {}, 0, 0, 32), 0);
  EXPECT_GT(cost.rows_within(1.0, TickLoad().with(4, 100), 0, 512, 32), 16);
}

}  // namespace
}  // namespace tutti::engine
