#include "eval/tasks.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "base/error.h"
#include "check/human_eval.h"
#include "check/numbers.h"
#include "decode/draft_counts.h"
#include "eval/run_program.h"
#include "formats/json_text.h"

namespace tutti::eval {

std::vector<TaskItem> generated_items(const train::ProblemSource& task,
                                      const text::Tokenizer& tokenizer,
                                      const TaskOptions& options) {
  std::vector<TaskItem> items;
  for (int i = 0; i < options.problems; ++i) {
    train::Problem problem =
        train::problem_at(task, options.seed, !options.trained, options.first + uint64_t(i));
    TaskItem& item = items.emplace_back();
    item.prompt = problem.prompt;
    item.ids = tokenizer.encode(problem.prompt);
    item.solves = [&task, problem = std::move(problem)](const std::string& written) {
      return task.solves(problem, written);
    };
  }
  return items;
}

namespace {

std::string trimmed(const std::string& text) {
  constexpr const char* kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string string_of(const nlohmann::json& line, const char* key, const std::string& place) {
  const auto it = line.find(key);
  if (it == line.end() || !it->is_string()) {
    throw Error(ErrorKind::kUsage, place + ": has no text \"" + key + "\"; give one");
  }
  return *it;
}

std::function<bool(const std::string&)> checker(const nlohmann::json& line, Check check,
                                                const std::string& place) {
  if (check == Check::kPython) {
    check::PythonTask task{string_of(line, "prompt", place), string_of(line, "test", place),
                           string_of(line, "entry_point", place)};
    return [task](const std::string& written) {
      return check::run_python(check::python_program(task, written)).passed;
    };
  }
  const std::string gold = string_of(line, "answer", place);
  if (check == Check::kNumber) {
    if (check::last_number(gold).empty()) {
      throw Error(ErrorKind::kUsage, place + ": \"answer\" ends in no number; use --check exact");
    }
    return [gold](const std::string& written) { return check::same_number(written, gold); };
  }
  return [gold = trimmed(gold)](const std::string& written) { return trimmed(written) == gold; };
}

}  // namespace

std::vector<TaskItem> items_of_lines(
    std::string_view lines, const std::string& place, Check check,
    const std::function<std::vector<int32_t>(const std::string&)>& encode,
    const TaskOptions& options) {
  std::vector<TaskItem> items;
  std::istringstream in{std::string(lines)};
  std::string text;
  uint64_t index = 0;
  for (int number = 1; std::getline(in, text) && items.size() < size_t(options.problems);
       ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos || index++ < options.first) continue;
    const std::string at = place + ", line " + std::to_string(number);
    const nlohmann::json line = formats::parse_json(text, at);
    if (!line.is_object()) throw Error(ErrorKind::kUsage, at + ": is no JSON object");
    TaskItem& item = items.emplace_back();
    item.prompt = string_of(
        line, line.contains("question") && !line.contains("prompt") ? "question" : "prompt", at);
    item.ids = encode(item.prompt);
    item.solves = checker(line, check, at);
  }
  if (items.empty())
    throw Error(ErrorKind::kUsage, place + ": has no line from --first on; give a problem a line");
  return items;
}

TaskResult run_task(engine::Engine& engine, const text::Tokenizer& tokenizer,
                    const std::vector<TaskItem>& items, const decode::GenerationOptions& how,
                    const TaskOptions& options, const std::function<void(int)>& progress) {
  TaskResult result;
  result.problems = int(items.size());
  result.answers.resize(items.size());
  int done = 0;
  const uint64_t ticks = engine.statistics().ticks, rows = engine.statistics().rows;
  result.seconds =
      answer_all(engine, result.problems, options.batch,
                 [&](int question, std::shared_ptr<engine::Request> request) -> Task<void> {
                   const size_t i = size_t(question);
                   decode::GenerationOptions g = how;
                   g.max_tokens = options.tokens;
                   if (!g.seed) g.seed = options.seed + i;
                   const std::vector<decode::Completion> answer =
                       co_await decode::generate(engine, tokenizer, request, items[i].ids, g, {});
                   const decode::Completion& c = answer.front();
                   result.tokens += tokens_of(c);
                   result.forwards += forwards_of(c);
                   result.proposed += c.statistics.proposed;
                   result.accepted += c.statistics.accepted;
                   decode::add_counts(result.waits, c.statistics.waits);
                   decode::add_counts(result.drafted_at, c.statistics.drafted_at);
                   decode::add_counts(result.accepted_at, c.statistics.accepted_at);
                   result.answers[i] = {items[i].prompt, c.text, false};
                   if (progress) progress(++done);
                 });
  result.ticks = engine.statistics().ticks - ticks;
  result.rows = engine.statistics().rows - rows;
  for (size_t i = 0; i < items.size(); ++i) {
    result.answers[i].solved = items[i].solves(result.answers[i].text);
    result.solved += result.answers[i].solved;
  }
  return result;
}

double TaskResult::mean_wait() const {
  double sum = 0, count = 0;
  for (size_t k = 0; k < waits.size(); ++k) {
    sum += double(k) * double(waits[k]);
    count += double(waits[k]);
  }
  return count > 0 ? sum / count : 0;
}

std::vector<size_t> pareto_front(const std::vector<std::pair<double, double>>& points) {
  std::vector<size_t> order(points.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    return std::pair(points[a].first, -points[a].second) <
           std::pair(points[b].first, -points[b].second);
  });
  std::vector<size_t> front;
  for (const size_t i : order) {
    if (front.empty() || points[i].second > points[front.back()].second) front.push_back(i);
  }
  return front;
}

double accuracy_under_parallelism(std::vector<std::pair<double, double>> points) {
  if (points.empty()) return 0;
  std::ranges::sort(points);
  const double least = points.front().second - 5;
  std::erase_if(points, [&](const auto& p) { return p.second < least; });
  double most = 0;
  for (const auto& [x, y] : points) most = std::max(most, y);
  if (most <= 0) return 0;
  const auto weighed = [&](double y) { return y * std::min(std::exp(-3 * (1 - y / most)), 1.0); };
  double area = points.front().first * points.front().second;
  for (size_t i = 1; i < points.size(); ++i) {
    area += 0.5 * (points[i].first - points[i - 1].first) *
            (weighed(points[i].second) + weighed(points[i - 1].second));
  }
  return area;
}

}  // namespace tutti::eval
