// Attention over paged runs against a naive dense oracle in double precision, with random page
// tables, runs, classes, caps and empty views; equality by bits between levels and between ways of
// cutting the same keys into pages.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "tensor/attention_trial.h"

namespace tutti::tensor {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Result {
  std::vector<float> out, lse;
};

Result attend(Isa isa, const Case& c, const Placement& placement) {
  AttendParams params = c.params;
  params.pages = placement.table.data();
  const size_t group = size_t(params.group);
  Result r{std::vector<float>(group * size_t(c.layout.head_dim), 9.0f),
           std::vector<float>(group, 9.0f)};
  std::vector<float> scratch(group * size_t(c.keys) + 1, 9.0f);
  kernels(isa).attend(params, c.q.data(), placement.runs.data(), int(placement.runs.size()),
                      r.out.data(), r.lse.data(), scratch.data());
  EXPECT_EQ(scratch.back(), 9.0f);
  auto without = r.out;
  kernels(isa).attend(params, c.q.data(), placement.runs.data(), int(placement.runs.size()),
                      without.data(), nullptr, scratch.data());
  expect_same_bits(without, r.out, "without lse");
  return r;
}

// What the cache holds of x.
std::vector<double> cached(const float* x, int n, KvType type) {
  std::vector<double> r;
  float top = 0;
  for (int i = 0; i < n; ++i) top = std::max(top, std::abs(x[i]));
  for (int i = 0; i < n; ++i) {
    if (type == KvType::kF32) r.push_back(x[i]);
    if (type == KvType::kF16) r.push_back(half_to_float(float_to_half(x[i])));
    if (type == KvType::kI8) r.push_back(std::nearbyint(x[i] * (127.0f / top)) * (top / 127.0f));
  }
  return r;
}

// Softmax per class, classes mixed by their scaled log-sum-exp.
void oracle(const Case& c, int head, std::vector<double>& out, double& lse) {
  const int dim = c.layout.head_dim;
  out.assign(size_t(dim), 0.0);
  lse = -INFINITY;
  std::vector<double> scores;
  for (int i = 0; i < c.keys; ++i) {
    const auto key = cached(&c.k[size_t(i * dim)], dim, c.layout.type);
    double s = 0;
    for (int d = 0; d < dim; ++d) s += c.q[size_t(head * dim + d)] * key[size_t(d)];
    s *= c.params.scale;
    if (c.params.cap > 0) s = c.params.cap * std::tanh(s / c.params.cap);
    scores.push_back(s * c.params.classes[c.classes[size_t(i)]].inverse_temperature);
  }
  double weights = 0;
  std::vector<double> mixed(static_cast<size_t>(dim));
  for (int cls = 0; cls < c.params.class_count; ++cls) {
    double z = 0;
    std::vector<double> o(static_cast<size_t>(dim));
    for (int i = 0; i < c.keys; ++i) {
      if (c.classes[size_t(i)] != cls) continue;
      const double e = std::exp(scores[size_t(i)]);
      const auto value = cached(&c.v[size_t(i * dim)], dim, c.layout.type);
      z += e;
      for (int d = 0; d < dim; ++d) o[size_t(d)] += e * value[size_t(d)];
    }
    if (z == 0) continue;
    const double weight = std::exp(c.params.classes[cls].lse_scale * std::log(z));
    weights += weight;
    for (int d = 0; d < dim; ++d) mixed[size_t(d)] += weight * o[size_t(d)] / z;
  }
  if (weights == 0) return;
  for (int d = 0; d < dim; ++d) out[size_t(d)] = mixed[size_t(d)] / weights;
  lse = std::log(weights);
}

TEST(Attend, MatchesTheDenseOracleOnEveryLevel) {
  Trial trial(1);
  for (KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
    for (int head_dim : {16, 48, 64, 80, 128, 256}) {
      for (int repeat = 0; repeat < 12; ++repeat) {
        const int group = 1 + trial.below(11), keys = trial.below(repeat % 3 ? 90 : 300);
        const int class_count = repeat % 2 ? 1 : 1 + trial.below(kMaxSoftmaxClasses);
        const Case c = random_case(trial, type, head_dim, group, keys, class_count,
                                   repeat % 4 == 3 ? 5.0f : 0);
        const Placement placement = place(c, trial, 32, repeat % 5 == 0);
        const Result scalar = attend(Isa::kScalar, c, placement);
        for (int g = 0; g < group; ++g) {
          std::vector<double> out;
          double lse;
          oracle(c, g, out, lse);
          if (keys == 0) {
            ASSERT_EQ(scalar.lse[size_t(g)], -kInf);
          } else {
            ASSERT_NEAR(scalar.lse[size_t(g)], lse, 3e-5);
          }
          for (int d = 0; d < head_dim; ++d) {
            ASSERT_NEAR(scalar.out[size_t(g * head_dim + d)], out[size_t(d)], keys ? 3e-5 : 0)
                << "type " << int(type) << " dim " << head_dim << " keys " << keys << " classes "
                << class_count;
          }
        }
        for (Isa isa : available_isas()) {
          const Result r = attend(isa, c, placement);
          expect_same_bits(r.out, scalar.out, "out");
          expect_same_bits(r.lse, scalar.lse, "lse");
        }
      }
    }
  }
}

TEST(Attend, DoesNotDependOnPagesAndRuns) {
  Trial trial(2);
  for (KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
    for (int class_count : {1, 3}) {
      const Case c =
          random_case(trial, type, 64, 3, 700, class_count, class_count == 3 ? 10.0f : 0.0f);
      const Result packed = attend(Isa::kScalar, c, place(c, trial, 32, true));
      for (int longest : {1, 2, 7, 16, 31, 32}) {
        const Placement placement = place(c, trial, longest, false);
        for (Isa isa : available_isas()) {
          const Result r = attend(isa, c, placement);
          expect_same_bits(r.out, packed.out, "out");
          expect_same_bits(r.lse, packed.lse, "lse");
        }
      }
    }
  }
}

TEST(Attend, SumsRestartEvery4096VisibleKeys) {
  Trial trial(3);
  const Case c = random_case(trial, KvType::kF32, 16, 1, 9000, 1, 0);
  const Result got = attend(Isa::kScalar, c, place(c, trial, 32, true));
  // the order rule, spelled out
  std::vector<float> s;
  float m = -kInf;
  for (int i = 0; i < c.keys; ++i) {
    float dot = 0;
    for (int d = 0; d < 16; ++d) dot = std::fma(c.q[size_t(d)], c.k[size_t(i * 16 + d)], dot);
    s.push_back(dot * c.params.scale);
    m = std::max(m, s.back());
  }
  for (float& x : s) x -= m;
  kernels(Isa::kScalar).exp(s.data(), c.keys, s.data());
  float z = 0, out[16] = {};
  for (int begin = 0; begin < c.keys; begin += 4096) {
    float part = 0, part_out[16] = {};
    for (int i = begin; i < std::min(begin + 4096, c.keys); ++i) {
      part += s[size_t(i)];
      for (int d = 0; d < 16; ++d)
        part_out[d] = std::fma(s[size_t(i)], c.v[size_t(i * 16 + d)], part_out[d]);
    }
    z += part;
    for (int d = 0; d < 16; ++d) out[d] += part_out[d];
  }
  for (int d = 0; d < 16; ++d) EXPECT_EQ(got.out[size_t(d)], out[d] / z);
  for (int longest : {5, 32}) {
    for (Isa isa : available_isas()) {
      const Result r = attend(isa, c, place(c, trial, longest, false));
      expect_same_bits(r.out, got.out, "out");
      expect_same_bits(r.lse, got.lse, "lse");
    }
  }
}

TEST(Attend, AClassAloneIsOrdinaryAttention) {
  Trial trial(4);
  Case c = random_case(trial, KvType::kF16, 64, 4, 200, 1, 0);
  const Placement placement = place(c, trial, 32, false);
  const Result plain = attend(Isa::kScalar, c, placement);
  c.params.class_count = 3;  // two more classes exist, but no key is theirs
  c.params.classes[1] = {2.0f, 0.5f};
  Result r = attend(Isa::kScalar, c, placement);
  expect_same_bits(r.out, plain.out, "out");
  expect_same_bits(r.lse, plain.lse, "lse");
  Placement other = placement;  // all keys in class 2, which is {1, 1}
  for (KvRun& run : other.runs) run.softmax_class = 2;
  r = attend(Isa::kScalar, c, other);
  expect_same_bits(r.out, plain.out, "out");
  expect_same_bits(r.lse, plain.lse, "lse");
}

TEST(Attend, HeadsDoNotDependOnTheirGroup) {
  Trial trial(5);
  const Case c = random_case(trial, KvType::kF16, 128, 9, 150, 2, 0);
  const Placement placement = place(c, trial, 32, false);
  for (Isa isa : available_isas()) {
    const Result whole = attend(isa, c, placement);
    for (int g = 0; g < 9; ++g) {
      Case one = c;
      one.params.group = 1;
      one.q.assign(c.q.begin() + g * 128, c.q.begin() + (g + 1) * 128);
      const Result r = attend(isa, one, placement);
      for (int d = 0; d < 128; ++d)
        ASSERT_TRUE(same_bits(r.out[size_t(d)], whole.out[size_t(g * 128 + d)]));
      ASSERT_TRUE(same_bits(r.lse[0], whole.lse[size_t(g)]));
    }
  }
}

// Rows that see the same first runs and then differ: another number of runs, or runs of another
// order.
TEST(Attend, RowsThatShareSlotsGetTheBitsOfEachAlone) {
  Trial trial(7);
  for (const int keys : {40, 300, 4300}) {
    for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kI8}) {
      const int classes = type == KvType::kF32 ? 1 : 3;
      Case c = random_case(trial, type, keys > 1000 ? 32 : 80, keys > 1000 ? 3 : 9, keys, classes,
                           keys == 300 ? 20.0f : 0);
      if (classes == 1) c.params.classes[0] = {1.3f, 1.0f};
      const Placement placement = place(c, trial, 32, keys == 300);
      const int all = int(placement.runs.size()), shared = 1 + trial.below(all);
      const size_t width = size_t(c.params.group * c.layout.head_dim);
      std::vector<std::vector<KvRun>> runs;
      std::vector<std::vector<float>> q;
      for (int i = 0; i < kMaxSharedRows; ++i) {
        runs.emplace_back(placement.runs.begin(),
                          placement.runs.begin() + shared + trial.below(all - shared + 1));
        if (i % 2) std::reverse(runs.back().begin() + shared, runs.back().end());
        q.emplace_back();
        for (size_t k = 0; k < width; ++k) q.back().push_back(trial.uniform(-2, 2));
      }
      AttendParams params = c.params;
      params.pages = placement.table.data();
      for (const Isa isa : available_isas()) {
        for (const int count : {1, 2, kMaxSharedRows}) {
          std::vector<float> outs(width * size_t(count), 9.0f);
          std::vector<float> scratch(width / size_t(c.layout.head_dim) * size_t(count * keys) +
                                         size_t(32 * c.layout.head_dim) + 1,
                                     9.0f);
          std::vector<AttendRow> rows;
          for (int i = 0; i < count; ++i) {
            rows.push_back({q[size_t(i)].data(), runs[size_t(i)].data(),
                            int(runs[size_t(i)].size()), outs.data() + size_t(i) * width});
          }
          kernels(isa).attend_shared(params, rows.data(), count, shared, scratch.data());
          EXPECT_EQ(scratch.back(), 9.0f);
          for (const AttendRow& row : rows) {
            std::vector<float> alone(width);
            kernels(isa).attend(params, row.q, row.runs, row.run_count, alone.data(), nullptr,
                                scratch.data());
            expect_same_bits({row.out, row.out + width}, alone, "a row that shares slots");
          }
        }
      }
    }
  }
}

TEST(Attend, LargeScoresDoNotOverflow) {
  Trial trial(6);
  Case c = random_case(trial, KvType::kF32, 16, 1, 3, 1, 0);
  std::fill(c.q.begin(), c.q.end(), 1000.0f);
  c.k.assign(48, 1000.0f);
  c.k[0] = 0;  // the first key scores a little lower: 250,000 against 0 after the softmax
  const Result r = attend(Isa::kScalar, c, place(c, trial, 1, false));
  for (int d = 0; d < 16; ++d) {
    EXPECT_FLOAT_EQ(r.out[size_t(d)], (c.v[size_t(16 + d)] + c.v[size_t(32 + d)]) / 2);
  }
  EXPECT_FLOAT_EQ(r.lse[0], 4e6f);
}

}  // namespace
}  // namespace tutti::tensor
