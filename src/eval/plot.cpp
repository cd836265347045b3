#include "eval/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

namespace tutti::eval {
namespace {

constexpr size_t kMostMarks = 24;
constexpr double kWidth = 760, kHeight = 440, kLeft = 80, kRight = 170, kTop = 50, kBottom = 60;
// Distinct in print and for colour-blind readers (Okabe and Ito).
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#000000"};

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof(text), std::fabs(x) >= 100 || x == std::floor(x) ? "%.0f" : "%.3g", x);
  return text;
}

template <class... A>
void append(std::string& out, const char* format, A... values) {
  char text[512];
  std::snprintf(text, sizeof(text), format, values...);
  out += text;
}

// The step of about `ticks` round marks over `span`.
double round_step(double span, int ticks) {
  const double raw = span / ticks, power = std::pow(10, std::floor(std::log10(raw)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (raw <= m * power) return m * power;
  }
  return 10 * power;
}

}  // namespace

Plot::Plot(std::string title, std::string x_label, std::string y_label)
    : title_(std::move(title)), x_label_(std::move(x_label)), y_label_(std::move(y_label)) {}

void Plot::add_line(std::string name, std::vector<std::pair<double, double>> points) {
  lines_.push_back({std::move(name), std::move(points), false});
}

void Plot::add_level(std::string name, double y) {
  lines_.push_back({std::move(name), {{0, y}}, true});
}

std::string Plot::svg() const {
  std::set<double> xs;
  double top = 0;
  for (const auto& line : lines_) {
    for (const auto& [x, y] : line.points) {
      if (!line.level) xs.insert(x);
      top = std::max(top, y);
    }
  }
  if (xs.empty()) xs.insert(1);
  if (top <= 0) top = 1;
  const bool log_x = log_x_ && *xs.begin() > 0;
  const auto along = [&](double x) { return log_x ? std::log2(x) : x; };
  const double x0 = along(*xs.begin()), x1 = std::max(along(*xs.rbegin()), x0 + 1e-9);
  const double step = round_step(top, 6), y1 = std::ceil(top / step) * step;
  const auto px = [&](double x) {
    return kLeft + (along(x) - x0) / (x1 - x0) * (kWidth - kLeft - kRight);
  };
  const auto py = [&](double y) { return kHeight - kBottom - y / y1 * (kHeight - kTop - kBottom); };

  std::string out;
  append(out,
         "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
         "font-family=\"sans-serif\" font-size=\"13\">\n",
         kWidth, kHeight);
  out += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  append(out, "<text x=\"%g\" y=\"26\" font-size=\"16\">", kLeft);
  out += escape(title_) + "</text>\n";
  for (double y = 0; y <= y1 + step / 2; y += step) {
    append(out, "<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>", kLeft,
           kWidth - kRight, py(y), py(y));
    append(out, "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", kLeft - 8, py(y) + 4,
           number(y).c_str());
  }
  // A mark at every x as long as they can be told apart, else at round ones.
  std::set<double> marks = xs;
  if (xs.size() > kMostMarks && !log_x) {
    const double x_step = round_step(*xs.rbegin() - *xs.begin(), 8);
    marks.clear();
    for (double x = std::ceil(*xs.begin() / x_step) * x_step; x <= *xs.rbegin(); x += x_step)
      marks.insert(x);
  }
  for (const double x : marks) {
    append(out, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", px(x),
           kHeight - kBottom + 20, number(x).c_str());
  }
  append(out, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">", (kLeft + kWidth - kRight) / 2,
         kHeight - 16);
  out += escape(x_label_) + "</text>\n";
  append(out, "<text transform=\"translate(20 %g) rotate(-90)\" text-anchor=\"middle\">",
         (kTop + kHeight - kBottom) / 2);
  out += escape(y_label_) + "</text>\n";
  for (size_t i = 0; i < lines_.size(); ++i) {
    const auto& line = lines_[i];
    const char* colour = kColours[i % std::size(kColours)];
    if (line.level) {
      const double y = py(line.points.front().second);
      append(out,
             "<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-dasharray=\"6 "
             "4\"/>\n",
             kLeft, kWidth - kRight, y, y, colour);
    } else {
      append(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
      for (const auto& [x, y] : line.points) append(out, "%.1f,%.1f ", px(x), py(y));
      out += "\"/>\n";
      for (const auto& [x, y] : line.points) {
        if (line.points.size() > kMostMarks) break;
        append(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>", px(x), py(y), colour);
      }
    }
    const double y = kTop + 10 + 20 * double(i);
    append(out, "\n<rect x=\"%g\" y=\"%.1f\" width=\"14\" height=\"4\" fill=\"%s\"/>",
           kWidth - kRight + 12, y - 6, colour);
    append(out, "<text x=\"%g\" y=\"%.1f\">", kWidth - kRight + 32, y);
    out += escape(line.name) + "</text>\n";
  }
  return out + "</svg>\n";
}

}  // namespace tutti::eval
