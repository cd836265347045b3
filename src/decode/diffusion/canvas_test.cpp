#include "decode/diffusion/canvas.h"

#include <gtest/gtest.h>

#include "base/draws.h"

namespace tutti::decode::diffusion {
namespace {

constexpr int32_t kMask = 99;

// Against a canvas kept as a plain list, on random programs of commits and cuts.
TEST(Canvas, AgreesWithAPlainList) {
  Draws draws(1);
  for (int round = 0; round < 2000; ++round) {
    const int prompt = draws.below(9), block = 1 + draws.below(8), answer = 1 + draws.below(30);
    const int first = draws.below(2) ? prompt : prompt / block * block;
    std::vector<int32_t> tokens;
    for (int i = 0; i < prompt; ++i) tokens.push_back(draws.below(50));
    Canvas canvas(tokens, answer, kMask, block, first);
    tokens.resize(size_t(prompt + answer), -1);
    while (!canvas.done()) {
      const int size = int(tokens.size());
      ASSERT_EQ(canvas.size(), size);
      // The first block with an open position, counted from `first`.
      int begin = first;
      const auto written = [&](int from, int to) {
        for (int p = from; p < to; ++p) {
          if (tokens[size_t(p)] < 0) return false;
        }
        return true;
      };
      while (written(begin, std::min(size, begin + block))) begin += block;
      ASSERT_EQ(canvas.begin(), begin);
      ASSERT_EQ(canvas.end(), std::min(size, begin + block));
      int settled = 0;
      while (settled < size && tokens[size_t(settled)] >= 0) ++settled;
      ASSERT_EQ(canvas.settled(), settled);
      std::vector<int> open;
      for (int p = 0; p < size; ++p) {
        ASSERT_EQ(canvas.open(p), tokens[size_t(p)] < 0);
        ASSERT_EQ(canvas.tokens()[size_t(p)], tokens[size_t(p)] < 0 ? kMask : tokens[size_t(p)]);
        if (tokens[size_t(p)] < 0) open.push_back(p);
      }
      ASSERT_EQ(canvas.open_in(0, size), open);
      ASSERT_EQ(canvas.open_count(), int(open.size()));
      if (draws.below(12) == 0) {
        const int to = prompt + draws.below(size - prompt + 1);
        canvas.truncate(to);
        tokens.resize(size_t(to));
        continue;
      }
      draws.shuffle(open);
      open.resize(size_t(1 + draws.below(int(open.size()))));
      std::vector<Commit> commits;
      for (const int p : open) {
        commits.push_back({p, draws.below(50), 0});
        tokens[size_t(p)] = commits.back().token;
      }
      canvas.commit(commits);
    }
  }
}

}  // namespace
}  // namespace tutti::decode::diffusion
