#include "cli/train_log.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "eval/plot.h"
#include "formats/json_text.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

double percent(double solved, double problems) {
  return problems > 0 ? 100 * solved / problems : 0;
}

// At most `most` points, each the mean of its neighbours.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points,
                                               size_t most) {
  const size_t group = (points.size() + most - 1) / most;
  std::vector<std::pair<double, double>> out;
  for (size_t first = 0; first < points.size(); first += std::max<size_t>(group, 1)) {
    const size_t last = std::min(points.size(), first + group);
    double sum = 0;
    for (size_t i = first; i < last; ++i) sum += points[i].second;
    out.emplace_back(points[last - 1].first, sum / double(last - first));
  }
  return out;
}

}  // namespace

TrainLog::TrainLog(std::filesystem::path path, bool resume) : path_(std::move(path)) {
  std::string kept;
  if (resume && std::filesystem::exists(path_)) kept = read_file(path_);
  std::istringstream lines(kept);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const auto value =
        formats::parse_json(line, path_.string() + ", line " + std::to_string(number));
    const double step = value.value("step", 0.0);
    if (value.contains("loss")) losses_.emplace_back(step, value.value("loss", 0.0));
    if (value.contains("solved"))
      solved_.emplace_back(step, percent(value.value("solved", 0.0), value.value("problems", 0.0)));
  }
  file_.open(path_, resume ? std::ios::app : std::ios::trunc);
  if (!file_) throw Error(ErrorKind::kSystem, path_.string() + ": cannot be written");
}

void TrainLog::drop_from(int64_t step) {
  checked_ = true;
  const auto later = [&](const Point& p) { return p.first >= double(step); };
  if (std::erase_if(losses_, later) + std::erase_if(solved_, later) == 0) return;
  file_.close();
  std::istringstream lines(read_file(path_));
  std::string line, kept;
  while (std::getline(lines, line)) {
    if (formats::parse_json(line, path_.string()).value("step", int64_t(0)) < step)
      kept += line + "\n";
  }
  write_file_atomically(path_, kept);
  file_.open(path_, std::ios::app);
}

void TrainLog::write(const std::string& line) {
  file_ << line << '\n';
  file_.flush();
  if (!file_)
    throw Error(ErrorKind::kSystem, path_.string() + ": cannot be written; is the disk full?");
}

void TrainLog::add(const train::StepReport& r) {
  if (!checked_) drop_from(r.step);
  losses_.emplace_back(double(r.step), r.loss);
  Json line{{"step", r.step},
            {"loss", r.loss},
            {"gradient_norm", r.gradient_norm},
            {"learning_rate", r.learning_rate},
            {"tokens", r.tokens},
            {"predicted", r.predicted},
            {"seconds", r.seconds}};
  if (r.right > 0) {
    line["right"] = r.right;
    line["entropy"] = r.entropy;
  }
  write(line.dump());
}

void TrainLog::add(const train::EvaluationReport& r) {
  if (r.guesses) {
    write(Json{{"step", r.step},
               {"anchors", r.guesses->anchors},
               {"accuracy", r.guesses->accuracy},
               {"seconds", r.seconds}}
              .dump());
    return;
  }
  solved_.emplace_back(double(r.step), percent(r.solved, r.problems));
  write(
      Json{{"step", r.step}, {"problems", r.problems}, {"solved", r.solved}, {"seconds", r.seconds}}
          .dump());
}

void TrainLog::plot(const std::string& title) const {
  constexpr size_t kMostPoints = 300;
  eval::Plot loss(title, "step", "loss");
  loss.set_log_x(false);
  loss.add_line("training loss", thinned(losses_, kMostPoints));
  write_file_atomically(std::filesystem::path(path_).replace_filename("loss.svg"), loss.svg());
  if (solved_.empty()) return;
  eval::Plot solved(title, "step", "held-out problems solved, %");
  solved.set_log_x(false);
  solved.add_line("solved", solved_);
  write_file_atomically(std::filesystem::path(path_).replace_filename("solved.svg"), solved.svg());
}

}  // namespace tutti::cli
