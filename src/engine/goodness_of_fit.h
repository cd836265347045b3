// Pearson's chi-square test for the tests of this room and of those that draw tokens.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace tutti::engine {

// Upper tail of the chi-square distribution: the regularised incomplete gamma function Q(k/2, x/2),
// by its series below k/2 + 1 and by Lentz' continued fraction above (Numerical Recipes,
// section 6.2).
inline double chi_square_tail(double x, int degrees) {
  const double a = 0.5 * degrees, h = 0.5 * x;
  if (h <= 0) return 1.0;
  const double scale = std::exp(-h + a * std::log(h) - std::lgamma(a));
  if (h < a + 1) {
    double term = 1 / a, sum = term;
    for (int n = 1; n < 10000 && term > sum * 1e-16; ++n) sum += term *= h / (a + n);
    return 1.0 - sum * scale;
  }
  double b = h + 1 - a, c = 1e300, d = 1 / b, fraction = d;
  for (int n = 1; n < 10000; ++n) {
    const double an = -n * (n - a);
    b += 2;
    d = 1 / (an * d + b);
    c = b + an / c;
    const double step = d * c;
    fraction *= step;
    if (std::fabs(step - 1) < 1e-15) break;
  }
  return scale * fraction;
}

// The chance of counts at least this far from `expected` probabilities (which add up to 1). Cells
// that expect fewer than five draws are pooled. A count where nothing is expected gives 0.
inline double goodness_of_fit(std::span<const int64_t> counts, std::span<const double> expected) {
  double draws = 0, chi_square = 0, rest_count = 0, rest_expected = 0;
  for (const int64_t count : counts) draws += double(count);
  int cells = 0;
  const auto add = [&](double count, double mean) {
    chi_square += (count - mean) * (count - mean) / mean;
    ++cells;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const double mean = expected[i] * draws;
    if (expected[i] <= 0 && counts[i] > 0) return 0.0;
    if (mean >= 5) {
      add(double(counts[i]), mean);
    } else {
      rest_count += double(counts[i]);
      rest_expected += mean;
    }
  }
  if (rest_expected >= 5) add(rest_count, rest_expected);
  // A pool that expects fewer than five draws holds more than 60 with a chance below 1e-40.
  if (rest_expected < 5 && rest_count > 60) return 0.0;
  return cells > 1 ? chi_square_tail(chi_square, cells - 1) : 1.0;
}

// With the fixed seeds of the tests a right program fails a comparison with less than this chance.
inline constexpr double kFalseAlarm = 1e-6;

}  // namespace tutti::engine
