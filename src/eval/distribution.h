// What a list of measurements says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace tutti::eval {

// Of sorted values: the least below which a share of `q` of them lies; 0 of none.
inline double sorted_quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1, size_t(q * double(sorted.size())))];
}

inline double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return sorted_quantile(values, q);
}

inline double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / double(values.size());
}

// Zeros: there was nothing to measure.
struct Distribution {
  size_t count = 0;
  double mean = 0, deviation = 0, median = 0, p90 = 0, p95 = 0, p99 = 0, most = 0;
};

inline Distribution distribution_of(std::vector<double> values) {
  Distribution d;
  d.count = values.size();
  if (values.empty()) return d;
  d.mean = mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - d.mean) * (v - d.mean);
  d.deviation = std::sqrt(squares / double(values.size()));
  std::sort(values.begin(), values.end());
  d.median = sorted_quantile(values, 0.5);
  d.p90 = sorted_quantile(values, 0.9);
  d.p95 = sorted_quantile(values, 0.95);
  d.p99 = sorted_quantile(values, 0.99);
  d.most = values.back();
  return d;
}

}  // namespace tutti::eval
