// Counters, gauges and histograms, and their Prometheus text (exposition format 0.0.4).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tutti::serve {

using Labels = std::vector<std::pair<std::string, std::string>>;

class Histogram {
 public:
  // Upper bounds, ascending; the last bucket is without bound.
  explicit Histogram(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value);

  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<uint64_t>& counts() const { return counts_; }  // each bucket's own
  double sum() const { return sum_; }
  uint64_t count() const { return count_; }

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  double sum_ = 0;
  uint64_t count_ = 0;
};

// Bounds in seconds as vLLM's dashboards expect them.
std::vector<double> first_token_bounds();
std::vector<double> between_tokens_bounds();
std::vector<double> request_bounds();
// 1, 2, 5, 10 … up to at least `most`.
std::vector<double> count_bounds(double most);

// A page of metrics, written family by family. Names and label names are the caller's to keep
// within Prometheus's alphabet; label values are escaped.
class MetricsPage {
 public:
  // Each sample goes under `name` and under every alias.
  void counter(const std::vector<std::string>& names, const std::string& help, const Labels& labels,
               double value);
  void gauge(const std::vector<std::string>& names, const std::string& help, const Labels& labels,
             double value);
  void histogram(const std::vector<std::string>& names, const std::string& help,
                 const Labels& labels, const Histogram& histogram);
  std::string text() const;

 private:
  struct Family {
    std::string type, help, samples;
  };
  Family& family(const std::string& name, const char* type, const std::string& help);
  void add(const std::vector<std::string>& names, const char* type, const std::string& help,
           const Labels& labels, double value);

  std::vector<std::string> order_;
  std::map<std::string, Family> families_;
};

}  // namespace tutti::serve
