#include "convert/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/half.h"

namespace tutti::convert {
namespace {

constexpr int kBits = 4;
// Rows of weights that go through the inputs side by side: each row of the factor is read once for
// all of them. (The reference's blocks of 128 inputs serve the same end, and change nothing but the
// order of sums.)
constexpr int kBundle = 16;

void add_scaled(double a, const double* x, int n, double* y) {
  for (int i = 0; i < n; ++i) y[i] += a * x[i];
}

// Upper triangular R with H = R R', in place; false when H is not positive definite. From the last
// column to the first, so that the inverse of R is the factor that GPTQ wants: H^-1 = U' U with U =
// R^-1 upper triangular. On one worker: a barrier for every column would cost more than sharing it
// out brings.
bool factor(std::vector<double>& h, int n) {
  const auto at = [&](int i, int j) -> double& { return h[size_t(i) * size_t(n) + size_t(j)]; };
  std::vector<double> column(size_t(n), 0.0);
  for (int j = n - 1; j >= 0; --j) {
    const double pivot = at(j, j);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    for (int i = 0; i < j; ++i) column[size_t(i)] = at(i, j) / root;
    for (int i = 0; i < j; ++i) {
      // Of row i only the columns i .. j - 1 matter.
      add_scaled(-column[size_t(i)], column.data() + i, j - i, &at(i, i));
      at(i, j) = column[size_t(i)];
    }
    at(j, j) = root;
  }
  return true;
}

// U = R^-1, upper triangular, row by row: U R = I.
std::vector<double> inverse(const std::vector<double>& r, int n, ComputePool& pool) {
  std::vector<double> u(size_t(n) * size_t(n), 0.0);
  pool.run([&](Worker& worker) {
    std::vector<double> rest(static_cast<size_t>(n));
    for (int i = worker.index(); i < n; i += worker.count()) {
      double* row = u.data() + size_t(i) * size_t(n);
      std::fill(rest.begin(), rest.end(), 0.0);
      rest[size_t(i)] = 1;
      for (int j = i; j < n; ++j) {
        const double* from = r.data() + size_t(j) * size_t(n);
        row[j] = rest[size_t(j)] / from[j];
        add_scaled(-row[j], from + j + 1, n - j - 1, rest.data() + j + 1);
      }
    }
  });
  return u;
}

float half_scale(double scale) { return half_to_float(float_to_half(float(scale))); }

// The scale of the weights w[0 .. n) that loses least: the full one, or one of those shrunk by up
// to `clip` per cent. `loss` takes the errors q - w of a candidate.
template <class Loss>
float best_scale(const double* w, int n, int clip, double* errors, const Loss& loss) {
  double most = 0;
  for (int i = 0; i < n; ++i) most = std::max(most, std::fabs(w[i]));
  float best = half_scale(2 * most / ((1 << kBits) - 1));
  double least = INFINITY;
  for (int percent = 0; clip > 0 && percent <= clip; ++percent) {
    const float scale = half_scale(2 * most * (1 - percent / 100.0) / ((1 << kBits) - 1));
    for (int i = 0; i < n; ++i)
      errors[i] = (int(tensor::grid_code(w[i], scale, kBits)) - 8) * double(scale) - w[i];
    const double lost = loss(errors);
    if (lost >= least) continue;
    least = lost;
    best = scale;
  }
  return best;
}

// |e R|^2 for R upper triangular, [stride][stride] from its diagonal at `r`.
double triangular_norm(const double* e, int n, const double* r, int stride, double* scratch) {
  std::fill_n(scratch, n, 0.0);
  for (int i = 0; i < n; ++i)
    add_scaled(e[i], r + size_t(i) * size_t(stride) + i, n - i, scratch + i);
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += scratch[i] * scratch[i];
  return sum;
}

// e' H e for symmetric H.
double quadratic(const double* e, int n, const double* h, double* scratch) {
  std::fill_n(scratch, n, 0.0);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    if (e[i] == 0) continue;
    const double* row = h + size_t(i) * size_t(n);
    // Row i of the triangle above the diagonal counts twice.
    add_scaled(2 * e[i], row + i + 1, n - i - 1, scratch + i + 1);
    sum += e[i] * e[i] * row[i];
  }
  for (int i = 0; i < n; ++i) sum += e[i] * scratch[i];
  return sum;
}

struct Errors {
  double error = 0, nearest = 0, squares = 0;
};

// Errors of the grid's rows against w, summed in the order of rows.
void measure(std::span<const float> w, std::span<const double> hessian, const tensor::Grid& nearest,
             GptqResult& result, ComputePool& pool) {
  const tensor::Grid& grid = result.grid;
  const int out = grid.out, in = grid.in;
  const bool same = &nearest == &grid;
  const std::vector<float> chosen = grid.dequantised();
  const std::vector<float> plain = same ? std::vector<float>() : nearest.dequantised();
  std::vector<Errors> rows(static_cast<size_t>(out));
  pool.run([&](Worker& worker) {
    std::vector<double> e(static_cast<size_t>(in)), scratch(static_cast<size_t>(in));
    const auto of = [&](const std::vector<float>* q, int o) {
      for (int k = 0; k < in; ++k) {
        const size_t place = size_t(o) * size_t(in) + size_t(k);
        e[size_t(k)] = double(w[place]) - (q ? double((*q)[place]) : 0.0);
      }
      return quadratic(e.data(), in, hessian.data(), scratch.data());
    };
    const auto [first, last] = worker.share(out);
    for (int o = first; o < last; ++o) {
      Errors& row = rows[size_t(o)];
      row.error = of(&chosen, o);
      row.nearest = same ? row.error : of(&plain, o);
      row.squares = of(nullptr, o);
    }
  });
  for (const Errors& row : rows) {
    result.error += row.error;
    result.nearest_error += row.nearest;
    result.squares += row.squares;
  }
}

class Solver {
 public:
  Solver(std::span<const float> w, int out, int in, std::span<const double> hessian,
         const GptqOptions& options, ComputePool& pool)
      : w_(w), out_(out), in_(in), options_(options), pool_(pool), hessian_(hessian) {
    order_.resize(size_t(in));
    std::iota(order_.begin(), order_.end(), 0);
    if (options.order == InputOrder::kActivation) {
      std::stable_sort(order_.begin(), order_.end(),
                       [&](int a, int b) { return diagonal(a) > diagonal(b); });
    }
    double mean = 0;
    for (int k = 0; k < in; ++k) mean += diagonal(k) / in;
    factor_.resize(size_t(in) * size_t(in));
    for (int i = 0; i < in; ++i) {
      for (int j = 0; j < in; ++j)
        factor_[size_t(i) * size_t(in) + size_t(j)] =
            hessian[size_t(order_[size_t(i)]) * size_t(in) + size_t(order_[size_t(j)])];
      double& d = factor_[size_t(i) * size_t(in) + size_t(i)];
      d += options.damping * mean;
      if (diagonal(order_[size_t(i)]) == 0)
        d += 1;  // no row met this input: its error binds nobody
    }
    if (!factor(factor_, in)) {
      throw Error(
          ErrorKind::kUsage,
          "GPTQ: the Hessian of " + std::to_string(in) +
              " inputs is not positive definite; raise the damping or give more calibration text");
    }
    inverse_ = inverse(factor_, in, pool);
  }

  tensor::Grid solve() {
    grid_.in = in_;
    grid_.out = out_;
    grid_.group = std::min(options_.group, in_);
    grid_.codes.resize(size_t(in_) * size_t(out_));
    grid_.scales.resize(size_t(grid_.group_count()) * size_t(out_));
    pool_.run([&](Worker& worker) {
      Buffers buffers(in_);
      const int bundles = (out_ + kBundle - 1) / kBundle;
      for (int b = worker.index(); b < bundles; b += worker.count())
        bundle(b * kBundle, std::min(kBundle, out_ - b * kBundle), buffers);
    });
    return std::move(grid_);
  }

 private:
  struct Buffers {
    explicit Buffers(int in)
        : w(size_t(in) * kBundle), group(size_t(in)), errors(size_t(in)), scratch(size_t(in)) {}
    std::vector<double> w;  // [rows][in], in the order of decision
    std::vector<double> group, errors, scratch;
  };

  double diagonal(int k) const { return hessian_[size_t(k) * size_t(in_) + size_t(k)]; }
  float& scale(int g, int o) { return grid_.scales[size_t(g) * size_t(out_) + size_t(o)]; }

  void bundle(int first, int rows, Buffers& b) {
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < in_; ++i)
        b.w[size_t(r) * size_t(in_) + size_t(i)] =
            w_[size_t(first + r) * size_t(in_) + size_t(order_[size_t(i)])];
    }
    if (options_.order == InputOrder::kActivation) {
      for (int r = 0; r < rows; ++r) fixed_scales(first + r, b);
    }
    for (int i = 0; i < in_; ++i) {
      const int k = order_[size_t(i)], g = k / grid_.group;
      const double* u = inverse_.data() + size_t(i) * size_t(in_);
      for (int r = 0; r < rows; ++r) {
        double* w = b.w.data() + size_t(r) * size_t(in_);
        const int o = first + r;
        if (options_.order == InputOrder::kNatural && k % grid_.group == 0)
          current_scale(g, o, w, b);
        const double s = scale(g, o);
        const uint8_t q = tensor::grid_code(w[i], s, kBits);
        grid_.codes[size_t(k) * size_t(out_) + size_t(o)] = q;
        const double error = (w[i] - (int(q) - 8) * s) / u[i];
        add_scaled(-error, u + i + 1, in_ - i - 1, w + i + 1);
      }
    }
  }

  // From the weights as they stand. What a group loses when all later weights make up for it as
  // well as they can is e (U' U)^-1 e' with the group's part of U: |e R|^2 with that of R.
  void current_scale(int g, int o, const double* w, Buffers& b) {
    const int first = g * grid_.group, n = std::min(grid_.group, in_ - first);
    const double* r = factor_.data() + size_t(first) * size_t(in_) + size_t(first);
    scale(g, o) = best_scale(w + first, n, options_.clip, b.errors.data(), [&](const double* e) {
      return triangular_norm(e, n, r, in_, b.scratch.data());
    });
  }

  // From the unchanged weights, each error weighed by its own input alone.
  void fixed_scales(int o, Buffers& b) {
    for (int g = 0; g < grid_.group_count(); ++g) {
      const int first = g * grid_.group, n = std::min(grid_.group, in_ - first);
      for (int i = 0; i < n; ++i)
        b.group[size_t(i)] = w_[size_t(o) * size_t(in_) + size_t(first + i)];
      scale(g, o) =
          best_scale(b.group.data(), n, options_.clip, b.errors.data(), [&](const double* e) {
            double sum = 0;
            for (int i = 0; i < n; ++i) sum += diagonal(first + i) * e[i] * e[i];
            return sum;
          });
    }
  }

  std::span<const float> w_;
  const int out_, in_;
  const GptqOptions& options_;
  ComputePool& pool_;
  std::span<const double> hessian_;
  std::vector<int> order_;                // order_[i]: the input that is decided i-th
  std::vector<double> factor_, inverse_;  // R and U, in that order
  tensor::Grid grid_;
};

void check(const GptqOptions& o) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, "GPTQ: " + what);
  };
  if (o.group < 1) refuse("groups of " + std::to_string(o.group) + " inputs; give at least 1");
  if (!(o.damping >= 0) || !std::isfinite(o.damping)) refuse("damping must be a number from 0 up");
  if (o.clip < 0 || o.clip > 99)
    refuse("clip is " + std::to_string(o.clip) + " per cent; give 0 to 99");
}

double relative(double error, double squares) {
  return squares > 0 ? std::sqrt(std::max(0.0, error) / squares) : 0;
}

}  // namespace

double GptqResult::relative_error() const { return relative(error, squares); }
double GptqResult::relative_nearest_error() const { return relative(nearest_error, squares); }

GptqResult gptq(std::span<const float> w, int out, int in, std::span<const double> hessian,
                const GptqOptions& options, ComputePool& pool) {
  check(options);
  GptqResult result;
  result.grid = Solver(w, out, in, hessian, options, pool).solve();
  measure(w, hessian, tensor::round_to_nearest(w, out, in, kBits, result.grid.group), result, pool);
  return result;
}

GptqResult nearest(std::span<const float> w, int out, int in, std::span<const double> hessian,
                   int group, ComputePool& pool) {
  GptqOptions options;
  options.group = group;
  check(options);
  GptqResult result;
  result.grid = tensor::round_to_nearest(w, out, in, kBits, std::min(group, in));
  measure(w, hessian, result.grid, result, pool);
  return result;
}

}  // namespace tutti::convert
