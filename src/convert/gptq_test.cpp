// GPTQ against its definition: at each input the inverse Hessian of those that are still free is
// computed anew, by elimination, with no factorisation and no order of updates that could be shared
// with the code under test.
#include "convert/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"
#include "base/half.h"

namespace tutti::convert {
namespace {

using Square = std::vector<std::vector<double>>;

// By Gauss and Jordan, with pivots.
Square inverted(Square a) {
  const size_t n = a.size();
  Square b(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < n; ++r) {
      if (std::fabs(a[r][c]) > std::fabs(a[pivot][c])) pivot = r;
    }
    std::swap(a[c], a[pivot]);
    std::swap(b[c], b[pivot]);
    const double by = a[c][c];
    for (size_t j = 0; j < n; ++j) a[c][j] /= by, b[c][j] /= by;
    for (size_t r = 0; r < n; ++r) {
      const double f = a[r][c];
      if (r == c || f == 0) continue;
      for (size_t j = 0; j < n; ++j) a[r][j] -= f * a[c][j], b[r][j] -= f * b[c][j];
    }
  }
  return b;
}

struct Problem {
  int out, in;
  std::vector<float> w;
  std::vector<double> hessian;
  double h(int i, int j) const { return hessian[size_t(i * in + j)]; }
};

// Inputs that go together and differ in size, as activations do.
Problem problem(int out, int in, uint64_t seed, bool dead = false) {
  std::mt19937 random{unsigned(seed)};
  std::normal_distribution<double> draw(0, 1);
  Problem p{out, in, {}, std::vector<double>(size_t(in * in), 0.0)};
  for (int i = 0; i < out * in; ++i) p.w.push_back(float(0.2 * draw(random)));
  std::vector<double> mix(size_t(in * in)), x(static_cast<size_t>(in));
  for (double& m : mix) m = draw(random) / std::sqrt(in);
  std::vector<double> size;
  for (int k = 0; k < in; ++k)
    size.push_back(dead && k % 11 == 3 ? 0.0 : std::exp(0.7 * draw(random)));
  for (int row = 0; row < 3 * in; ++row) {
    std::vector<double> z(static_cast<size_t>(in));
    for (double& v : z) v = draw(random);
    for (int i = 0; i < in; ++i) {
      x[size_t(i)] = 0.3 * z[size_t(i)];
      for (int j = 0; j < in; ++j) x[size_t(i)] += mix[size_t(i * in + j)] * z[size_t(j)];
      x[size_t(i)] *= size[size_t(i)];
    }
    for (int i = 0; i < in; ++i) {
      for (int j = 0; j < in; ++j) p.hessian[size_t(i * in + j)] += x[size_t(i)] * x[size_t(j)];
    }
  }
  return p;
}

float half(double x) { return half_to_float(float_to_half(float(x))); }
int code(double w, double scale) {
  return scale == 0 ? 8 : int(std::clamp(std::round(w / scale) + 8, 0.0, 15.0));
}

struct Expected {
  std::vector<int> codes;     // [in][out]
  std::vector<float> scales;  // [groups][out]
};

Expected by_definition(const Problem& p, const GptqOptions& o) {
  const int in = p.in, groups = (in + o.group - 1) / o.group;
  Expected e{std::vector<int>(size_t(in * p.out)), std::vector<float>(size_t(groups * p.out))};
  std::vector<int> order(static_cast<size_t>(in));
  std::iota(order.begin(), order.end(), 0);
  if (o.order == InputOrder::kActivation) {
    std::ranges::stable_sort(order, [&](int a, int b) { return p.h(a, a) > p.h(b, b); });
  }
  double mean = 0;
  for (int k = 0; k < in; ++k) mean += p.h(k, k) / in;
  // Of the inputs from order[i] on.
  std::vector<Square> inverses;
  for (int i = 0; i < in; ++i) {
    Square rest(size_t(in - i), std::vector<double>(size_t(in - i)));
    for (int a = i; a < in; ++a) {
      for (int b = i; b < in; ++b) {
        double& to = rest[size_t(a - i)][size_t(b - i)];
        to = p.h(order[size_t(a)], order[size_t(b)]);
        if (a == b) to += o.damping * mean + (p.h(order[size_t(a)], order[size_t(a)]) == 0 ? 1 : 0);
      }
    }
    inverses.push_back(inverted(rest));
  }
  const auto choose = [&](const std::vector<double>& w, const auto& loss) {
    double most = 0;
    for (const double x : w) most = std::max(most, std::fabs(x));
    float best = half(2 * most / 15);
    double least = 1e300;
    for (int percent = 0; o.clip > 0 && percent <= o.clip; ++percent) {
      const float scale = half(2 * most * (1 - percent / 100.0) / 15);
      std::vector<double> errors;
      for (const double x : w) errors.push_back((code(x, scale) - 8) * double(scale) - x);
      const double lost = loss(errors);
      if (lost < least) least = lost, best = scale;
    }
    return best;
  };
  for (int row = 0; row < p.out; ++row) {
    std::vector<double> w;  // by input
    for (int k = 0; k < in; ++k) w.push_back(p.w[size_t(row * in + k)]);
    const auto group_weights = [&](int g) {
      return std::vector<double>(w.begin() + g * o.group,
                                 w.begin() + std::min(in, (g + 1) * o.group));
    };
    if (o.order == InputOrder::kActivation) {
      for (int g = 0; g < groups; ++g) {
        e.scales[size_t(g * p.out + row)] =
            choose(group_weights(g), [&](const std::vector<double>& errors) {
              double sum = 0;
              for (size_t i = 0; i < errors.size(); ++i) {
                const int k = g * o.group + int(i);
                sum += p.h(k, k) * errors[i] * errors[i];
              }
              return sum;
            });
      }
    }
    for (int i = 0; i < in; ++i) {
      const int k = order[size_t(i)], g = k / o.group;
      const Square& inverse = inverses[size_t(i)];
      if (o.order == InputOrder::kNatural && k % o.group == 0) {
        // What is lost when the weights after the group make up for its errors as well as they can.
        const std::vector<double> current = group_weights(g);
        Square corner(current.size(), std::vector<double>(current.size()));
        for (size_t a = 0; a < current.size(); ++a) {
          for (size_t b = 0; b < current.size(); ++b) corner[a][b] = inverse[a][b];
        }
        const Square cost = inverted(corner);
        e.scales[size_t(g * p.out + row)] = choose(current, [&](const std::vector<double>& errors) {
          double sum = 0;
          for (size_t a = 0; a < errors.size(); ++a) {
            for (size_t b = 0; b < errors.size(); ++b) sum += errors[a] * cost[a][b] * errors[b];
          }
          return sum;
        });
      }
      const double scale = e.scales[size_t(g * p.out + row)];
      const int q = code(w[size_t(k)], scale);
      e.codes[size_t(k * p.out + row)] = q;
      const double error = (w[size_t(k)] - (q - 8) * scale) / inverse[0][0];
      for (int j = i; j < in; ++j) w[size_t(order[size_t(j)])] -= error * inverse[0][size_t(j - i)];
    }
  }
  return e;
}

void expect_same(const Problem& p, const GptqOptions& options) {
  ComputePool pool(2);
  const GptqResult result = gptq(p.w, p.out, p.in, p.hessian, options, pool);
  const Expected expected = by_definition(p, options);
  ASSERT_EQ(result.grid.scales.size(), expected.scales.size());
  for (size_t i = 0; i < expected.scales.size(); ++i)
    EXPECT_EQ(result.grid.scales[i], expected.scales[i]) << i;
  ASSERT_EQ(result.grid.codes.size(), expected.codes.size());
  for (size_t i = 0; i < expected.codes.size(); ++i) {
    ASSERT_EQ(int(result.grid.codes[i]), expected.codes[i])
        << "input " << i / size_t(p.out) << ", output " << i % size_t(p.out);
  }
}

GptqOptions with(int group, double damping = 0.1, int clip = 0,
                 InputOrder order = InputOrder::kNatural) {
  GptqOptions o;
  o.group = group;
  o.damping = damping;
  o.clip = clip;
  o.order = order;
  return o;
}

TEST(Gptq, IsItsDefinition) {
  expect_same(problem(19, 48, 1), with(16));
  expect_same(problem(5, 40, 2), with(32, 0.01));
  expect_same(problem(5, 33, 3), with(33, 0.0));
  expect_same(problem(33, 7, 4), with(3));
}

TEST(Gptq, ShrinksScalesToWhatLosesLeast) {
  expect_same(problem(9, 48, 5), with(16, 0.1, 75));
  expect_same(problem(9, 40, 6), with(32, 0.05, 30));
}

TEST(Gptq, DecidesLargeInputsFirst) {
  expect_same(problem(9, 48, 7), with(16, 0.1, 0, InputOrder::kActivation));
  expect_same(problem(9, 40, 8), with(16, 0.1, 50, InputOrder::kActivation));
}

TEST(Gptq, InputsThatNobodyMetAreRoundedToNearest) {
  const Problem p = problem(6, 44, 9, true);
  expect_same(p, with(44));
  ComputePool pool(1);
  const GptqResult result = gptq(p.w, p.out, p.in, p.hessian, with(44), pool);
  for (int k = 3; k < p.in; k += 11) {
    for (int o = 0; o < p.out; ++o) {
      EXPECT_EQ(int(result.grid.codes[size_t(k * p.out + o)]),
                code(p.w[size_t(o * p.in + k)], result.grid.scales[size_t(o)]));
    }
  }
}

// The reported errors are those of the products with the calibration rows, and smaller than
// rounding's.
TEST(Gptq, ErrorsAreWhatTheOutputsLose) {
  const Problem p = problem(24, 64, 10);
  ComputePool pool(2);
  const GptqResult result = gptq(p.w, p.out, p.in, p.hessian, with(32), pool);
  const auto loss = [&](const std::vector<float>& q) {
    double sum = 0;
    for (int o = 0; o < p.out; ++o) {
      for (int i = 0; i < p.in; ++i) {
        for (int j = 0; j < p.in; ++j) {
          const auto e = [&](int k) {
            return double(p.w[size_t(o * p.in + k)]) - double(q[size_t(o * p.in + k)]);
          };
          sum += e(i) * p.h(i, j) * e(j);
        }
      }
    }
    return sum;
  };
  const double chosen = loss(result.grid.dequantised());
  const double plain = loss(tensor::round_to_nearest(p.w, p.out, p.in, 4, 32).dequantised());
  const double squares = loss(std::vector<float>(p.w.size(), 0.0f));
  EXPECT_NEAR(result.error, chosen, 1e-9 * squares);
  EXPECT_NEAR(result.nearest_error, plain, 1e-9 * squares);
  EXPECT_NEAR(result.squares, squares, 1e-9 * squares);
  EXPECT_LT(result.relative_error(), 0.8 * result.relative_nearest_error());
  const GptqResult rounded = nearest(p.w, p.out, p.in, p.hessian, 32, pool);
  EXPECT_EQ(rounded.error, rounded.nearest_error);
  EXPECT_NEAR(rounded.error, plain, 1e-9 * squares);
}

TEST(Gptq, WorkersDoNotChangeABit) {
  const Problem p = problem(50, 96, 11);
  ComputePool one(1), three(3);
  const GptqResult a = gptq(p.w, p.out, p.in, p.hessian, with(32, 0.1, 20), one);
  const GptqResult b = gptq(p.w, p.out, p.in, p.hessian, with(32, 0.1, 20), three);
  EXPECT_EQ(a.grid.codes, b.grid.codes);
  EXPECT_EQ(a.grid.scales, b.grid.scales);
  EXPECT_EQ(a.error, b.error);
  EXPECT_EQ(a.nearest_error, b.nearest_error);
}

TEST(Gptq, RefusesOptionsAndHessiansThatMakeNoSense) {
  Problem p = problem(4, 16, 12);
  ComputePool pool(2);
  EXPECT_THROW(gptq(p.w, 4, 16, p.hessian, with(0), pool), Error);
  EXPECT_THROW(gptq(p.w, 4, 16, p.hessian, with(8, -1), pool), Error);
  EXPECT_THROW(gptq(p.w, 4, 16, p.hessian, with(8, 0.1, 100), pool), Error);
  // One row of calibration text: rank 1.
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) p.hessian[size_t(i * 16 + j)] = double(i + 1) * (j + 1);
  }
  p.hessian[0] = 0.5;  // and less than that
  EXPECT_THROW(gptq(p.w, 4, 16, p.hessian, with(8, 0), pool), Error);
  EXPECT_NO_THROW(gptq(p.w, 4, 16, p.hessian, with(8, 0.1), pool));
}

}  // namespace
}  // namespace tutti::convert
