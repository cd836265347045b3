// Line plots as SVG text, without anything to install.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tutti::eval {

class Plot {
 public:
  Plot(std::string title, std::string x_label, std::string y_label);
  void add_line(std::string name, std::vector<std::pair<double, double>> points);
  // A horizontal mark, such as a roof.
  void add_level(std::string name, double y);
  // The x axis in powers of two (rows, streams, depths).
  void set_log_x(bool on) { log_x_ = on; }
  std::string svg() const;

 private:
  struct Line {
    std::string name;
    std::vector<std::pair<double, double>> points;
    bool level = false;
  };
  std::string title_, x_label_, y_label_;
  std::vector<Line> lines_;
  bool log_x_ = true;
};

}  // namespace tutti::eval
