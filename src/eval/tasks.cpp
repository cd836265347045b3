#include "eval/tasks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>

namespace tutti::eval {

TaskResult run_task(engine::Engine& engine, const text::Tokenizer& tokenizer, const train::ProblemSource& task,
                    const decode::GenerationOptions& how, const TaskOptions& options,
                    const std::function<void(int)>& progress) {
  TaskResult result;
  result.problems = options.problems;
  result.answers.resize(size_t(options.problems));
  std::vector<train::Problem> problems;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < options.problems; ++i) {
    problems.push_back(train::problem_at(task, options.seed, !options.trained, options.first + uint64_t(i)));
    prompts.push_back(tokenizer.encode(problems.back().prompt));
  }
  int next = 0, done = 0;
  std::exception_ptr error;
  const uint64_t ticks = engine.statistics().ticks, rows = engine.statistics().rows;
  const auto start = std::chrono::steady_clock::now();
  for (int lane = 0; lane < std::min(options.batch, options.problems); ++lane) {
    const auto first_request = engine.new_request();
    engine.spawn(
        first_request,
        [&, first_request]() -> Task<void> {
          auto request = first_request;
          while (next < options.problems) {
            const size_t i = size_t(next++);
            decode::GenerationOptions g = how;
            g.max_tokens = options.tokens;
            if (!g.seed) g.seed = options.seed + i;
            const std::vector<decode::Completion> answer =
                co_await decode::generate(engine, tokenizer, request, prompts[i], g, {});
            const decode::Completion& c = answer.front();
            const bool solved = task.solves(problems[i], c.text);
            result.solved += solved;
            result.tokens += c.ids.size() + (c.finish == decode::Finish::kStop ? 1 : 0);
            result.forwards += c.statistics.forwards > 0 ? c.statistics.forwards
                                                               : c.ids.size() + (c.finish == decode::Finish::kStop);
            result.proposed += c.statistics.proposed;
            result.accepted += c.statistics.accepted;
            result.answers[i] = {problems[i].prompt, c.text, solved};
            if (progress) progress(++done);
            request = engine.new_request();
          }
        },
        [&](std::exception_ptr e) {
          if (e && !error) error = e;
        });
  }
  engine.run();
  if (error) std::rethrow_exception(error);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.ticks = engine.statistics().ticks - ticks;
  result.rows = engine.statistics().rows - rows;
  return result;
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
    area += 0.5 * (points[i].first - points[i - 1].first) * (weighed(points[i].second) + weighed(points[i - 1].second));
  }
  return area;
}

}  // namespace tutti::eval
