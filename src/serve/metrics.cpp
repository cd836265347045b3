#include "serve/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace tutti::serve {
namespace {

std::string number(double value) {
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  if (std::isnan(value)) return "NaN";
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

std::string escaped(const std::string& value, bool quote) {
  std::string out;
  for (const char c : value) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '"' && quote)
      out += "\\\"";
    else
      out += c;
  }
  return out;
}

std::string sample(const std::string& name, const Labels& labels, double value) {
  std::string line = name;
  for (size_t i = 0; i < labels.size(); ++i) {
    line += (i == 0 ? "{" : ",") + labels[i].first + "=\"" + escaped(labels[i].second, true) + "\"";
  }
  if (!labels.empty()) line += "}";
  return line + " " + number(value) + "\n";
}

}  // namespace

void Histogram::observe(double value) {
  ++counts_[size_t(std::ranges::lower_bound(bounds_, value) - bounds_.begin())];
  sum_ += value;
  ++count_;
}

std::vector<double> first_token_bounds() {
  return {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
}
std::vector<double> between_tokens_bounds() {
  return {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
}
std::vector<double> request_bounds() {
  return {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
          30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
}
std::vector<double> count_bounds(double most) {
  std::vector<double> bounds;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      bounds.push_back(step * decade);
      if (bounds.back() >= most) return bounds;
    }
  }
}

MetricsPage::Family& MetricsPage::family(const std::string& name, const char* type,
                                         const std::string& help) {
  const auto [it, fresh] = families_.try_emplace(name, Family{type, help, ""});
  if (fresh) order_.push_back(name);
  return it->second;
}

void MetricsPage::add(const std::vector<std::string>& names, const char* type,
                      const std::string& help, const Labels& labels, double value) {
  for (const std::string& name : names)
    family(name, type, help).samples += sample(name, labels, value);
}

void MetricsPage::counter(const std::vector<std::string>& names, const std::string& help,
                          const Labels& labels, double value) {
  add(names, "counter", help, labels, value);
}
void MetricsPage::gauge(const std::vector<std::string>& names, const std::string& help,
                        const Labels& labels, double value) {
  add(names, "gauge", help, labels, value);
}

void MetricsPage::histogram(const std::vector<std::string>& names, const std::string& help,
                            const Labels& labels, const Histogram& histogram) {
  for (const std::string& name : names) {
    std::string& samples = family(name, "histogram", help).samples;
    uint64_t below = 0;
    for (size_t i = 0; i < histogram.counts().size(); ++i) {
      below += histogram.counts()[i];
      Labels with = labels;
      with.emplace_back("le",
                        i < histogram.bounds().size() ? number(histogram.bounds()[i]) : "+Inf");
      samples += sample(name + "_bucket", with, double(below));
    }
    samples += sample(name + "_sum", labels, histogram.sum());
    samples += sample(name + "_count", labels, double(histogram.count()));
  }
}

std::string MetricsPage::text() const {
  std::string page;
  for (const std::string& name : order_) {
    const Family& f = families_.at(name);
    page += "# HELP " + name + " " + escaped(f.help, false) + "\n# TYPE " + name + " " + f.type +
            "\n" + f.samples;
  }
  return page;
}

}  // namespace tutti::serve
