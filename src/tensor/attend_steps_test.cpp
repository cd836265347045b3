// Attention in steps has the bits of attention in one piece, however keys and dimensions are split.
#include "tensor/attend_steps.h"

#include <gtest/gtest.h>

#include "tensor/attention_trial.h"

namespace tutti::tensor {
namespace {

// `parts` ascending borders in 0..n, the first 0 and the last n; parts may be empty.
std::vector<int> borders(Trial& trial, int n, int parts) {
  std::vector<int> r{0, n};
  for (int i = 1; i < parts; ++i) r.push_back(trial.below(n + 1));
  std::sort(r.begin(), r.end());
  return r;
}

std::vector<float> in_one_piece(const Kernels& k, const AttendParams& p, const Case& c,
                                const std::vector<KvRun>& runs) {
  std::vector<float> out(c.q.size()), scratch(size_t(p.group * c.keys));
  k.attend(p, c.q.data(), runs.data(), int(runs.size()), out.data(), nullptr, scratch.data());
  return out;
}

std::vector<float> in_steps(const AttendSteps& steps, const AttendParams& p, const Case& c,
                            const std::vector<KvRun>& runs, const std::vector<int>& run_borders,
                            const std::vector<int>& dim_borders) {
  const int parts = int(run_borders.size()) - 1;
  const size_t keys = size_t(c.keys);
  std::vector<float> scores(size_t(p.group) * keys + 1, 9.0f), out(c.q.size(), 9.0f);
  std::vector<AttendMaxima> maxima(size_t(parts * p.group));
  std::vector<int> first_keys;
  int key = 0;
  for (int i = 0; i < parts; ++i) {
    const int first = run_borders[size_t(i)], count = run_borders[size_t(i) + 1] - first;
    first_keys.push_back(key);
    steps.scores(p, c.q.data(), runs.data() + first, count, scores.data() + key, keys,
                 &maxima[size_t(i * p.group)]);
    for (int r = first; r < first + count; ++r) key += runs[size_t(r)].count;
  }
  for (int i = 0; i < parts; ++i) {
    const int first = run_borders[size_t(i)], count = run_borders[size_t(i) + 1] - first;
    steps.weights(p, runs.data() + first, count, maxima.data(), parts,
                  scores.data() + first_keys[size_t(i)], keys);
  }
  for (size_t i = 0; i + 1 < dim_borders.size(); ++i) {
    steps.values(p, runs.data(), int(runs.size()), maxima.data(), parts, scores.data(), keys,
                 16 * dim_borders[i], 16 * dim_borders[i + 1], out.data());
  }
  EXPECT_EQ(scores.back(), 9.0f);
  return out;
}

TEST(AttendSteps, HaveTheBitsOfAttendHoweverKeysAndDimensionsAreSplit) {
  Trial trial(8);
  for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
    for (const int head_dim : {16, 48, 64, 80, 256}) {
      for (const int most : {2, 90, head_dim == 16 ? 4300 : 400}) {
        const int keys = most > 1000 ? most : 1 + trial.below(most);
        const int class_count = trial.below(2) ? 1 : 3;
        const Case c = random_case(trial, type, head_dim, 1 + trial.below(11), keys, class_count,
                                   trial.below(3) ? 0.0f : 8.0f);
        const Placement placement = place(c, trial, 32, trial.below(2) == 0);
        AttendParams params = c.params;
        params.pages = placement.table.data();
        for (const Isa isa : available_isas()) {
          const auto whole = in_one_piece(kernels(isa), params, c, placement.runs);
          for (const int parts : {1, 2, 5}) {
            const auto split = in_steps(attend_steps(isa), params, c, placement.runs,
                                        borders(trial, int(placement.runs.size()), parts),
                                        borders(trial, head_dim / 16, parts));
            expect_same_bits(split, whole, "attention in steps");
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tutti::tensor
