#include "eval/traffic/tick_cost.h"

#include <algorithm>
#include <chrono>
#include <exception>

#include "base/error.h"

namespace tutti::eval {
namespace {

using Clock = std::chrono::steady_clock;

// y at x on the line through the two of `points` around it, or the last two on its side.
double between(const std::vector<std::pair<double, double>>& points, double x) {
  if (points.size() == 1) return points.front().second;
  size_t right = 1;
  while (right + 1 < points.size() && points[right].first < x) ++right;
  const auto& [x0, y0] = points[right - 1];
  const auto& [x1, y1] = points[right];
  return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

engine::Want greedy() {
  engine::Want want;
  want.pick = true;
  want.sampling.temperature = 0;
  return want;
}

std::vector<int32_t> some_tokens(int n, int vocab) {
  DrawKey key;
  key.purpose = Purpose::kTrace;
  key.path = 0xC057;
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i)
    tokens.push_back(int32_t(draw_word(key, uint32_t(i)) % uint32_t(vocab)));
  return tokens;
}

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

class Measurement {
 public:
  Measurement(engine::Engine& engine, const MeasureOptions& options)
      : engine_(engine),
        options_(options),
        request_(engine.new_request()),
        tokens_(some_tokens(std::max({options.keys, options.prompt_rows, options.rows}),
                            engine.model().config().vocab)) {}

  Task<void> run(MeasuredCost::Grid& grid, const std::function<void(int, int)>& progress) {
    for (int r = 1; r < options_.rows; r += r < 4 ? 1 : r < 8 ? 2 : r < 16 ? 4 : r / 16 * 8)
      grid.rows.push_back(r);
    grid.rows.push_back(options_.rows);
    grid.keys = {double(std::min(16, options_.keys))};
    if (options_.keys > 64) grid.keys.push_back(options_.keys / 2);
    if (options_.keys > 16) grid.keys.push_back(options_.keys);
    std::vector<int> prompts{options_.rows};
    for (int p = options_.rows * 2; p < options_.prompt_rows; p *= 2) prompts.push_back(p);
    if (options_.prompt_rows > options_.rows) prompts.push_back(options_.prompt_rows);
    const int total = int(grid.rows.size() * grid.keys.size() + prompts.size());
    int done = 0;

    // The first of them, which all begin with.
    engine::Context base(engine_, request_);
    engine::Rows rows =
        engine::Rows::append(std::span(tokens_).first(size_t(options_.keys)), 0, greedy());
    co_await engine_.forward(base, std::move(rows));
    grid.seconds.assign(grid.rows.size(), {});
    for (const double keys : grid.keys) {
      // Sequences with pages of their own, or they would read the same ones once.
      std::vector<engine::Context> lanes;
      for (int i = 0; i < options_.rows; ++i) {
        engine::Context lane = base.fork();
        lane.truncate(int(keys) - 1);
        std::vector<engine::PageRef> pages;
        for (int p = 0; p * tensor::kPageSlots < int(keys); ++p)
          pages.push_back(engine_.take_page(*request_));
        lane.settle(std::move(pages));
        lanes.push_back(std::move(lane));
      }
      for (size_t r = 0; r < grid.rows.size(); ++r) {
        std::vector<double> samples;
        for (int repeat = 0; repeat <= options_.repeats; ++repeat) {
          const double seconds = co_await lane_forward(lanes, grid.rows[r], int(keys) - 1);
          if (repeat > 0) samples.push_back(seconds);
        }
        grid.seconds[r].push_back(median(std::move(samples)));
        if (progress) progress(++done, total);
      }
      // The engine may hold on to them for a moment: their pages go now.
      for (auto& lane : lanes) lane.release();
    }
    base.release();
    for (const int p : prompts) {
      std::vector<double> samples;
      for (int repeat = 0; repeat < std::min(3, options_.repeats); ++repeat) {
        engine::Context context(engine_, request_);
        engine::Rows prompt =
            engine::Rows::append(std::span(tokens_).first(size_t(p)), 0, greedy());
        prompt.splittable = false;
        const auto start = Clock::now();
        co_await engine_.forward(context, std::move(prompt));
        samples.push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
      grid.prompts.emplace_back(p, median(std::move(samples)));
      if (progress) progress(++done, total);
    }
  }

 private:
  // Seconds of a forward of one row each of the first `rows` lanes, which stay as they are.
  Task<double> lane_forward(std::vector<engine::Context>& lanes, int rows, int position) {
    std::vector<engine::Part> parts;
    for (int i = 0; i < rows; ++i) {
      engine::Rows one;
      one.rows.emplace_back(tokens_[size_t(i) % tokens_.size()], position);
      one.rows.back().want = greedy();
      one.rows.back().write = engine::Write::none();
      parts.emplace_back(lanes[size_t(i)], std::move(one));
    }
    const auto start = Clock::now();
    co_await engine_.forward(std::move(parts));
    co_return std::chrono::duration<double>(Clock::now() - start).count();
  }

  engine::Engine& engine_;
  const MeasureOptions& options_;
  std::shared_ptr<engine::Request> request_;
  std::vector<int32_t> tokens_;
};

}  // namespace

double MeasuredCost::operator()(int rows, double keys) const {
  // Along keys for each number of rows, then along rows.
  const int most = grid_.rows.back();
  std::vector<std::pair<double, double>> by_rows;
  for (size_t r = 0; r < grid_.rows.size(); ++r) {
    std::vector<std::pair<double, double>> by_keys;
    for (size_t k = 0; k < grid_.keys.size(); ++k)
      by_keys.emplace_back(grid_.keys[k], grid_.seconds[r][k]);
    by_rows.emplace_back(grid_.rows[r], between(by_keys, keys));
  }
  double seconds = between(by_rows, std::min(rows, most));
  if (rows > most && !grid_.prompts.empty()) {
    const std::vector<std::pair<double, double>> prompts(grid_.prompts.begin(),
                                                         grid_.prompts.end());
    seconds += between(prompts, rows) - between(prompts, most);
  }
  return std::max(seconds, 1e-9);
}

MeasuredCost measure_tick_cost(engine::Engine& engine, const MeasureOptions& options,
                               const std::function<void(int, int)>& progress) {
  if (options.rows < 1 || options.prompt_rows < 1 || options.keys < 1 || options.repeats < 1) {
    throw Error(ErrorKind::kUsage, "tick cost: rows, prompt rows, keys and repeats are at least 1");
  }
  // What the pool holds of this: the sequences, the one that they are copies of, and rows that are
  // written nowhere.
  MeasureOptions fitting = options;
  const int scratch = (options.rows + tensor::kPageSlots - 1) / tensor::kPageSlots;
  const int free = engine.pages().free();
  const int pages = (free - scratch) / (options.rows + 1);
  if (pages < 1 || free * tensor::kPageSlots < options.rows) {
    throw Error(ErrorKind::kLimit,
                "tick cost: " + std::to_string(options.rows) +
                    " sequences side by side need more than " + std::to_string(free) +
                    " pages of 32 slots; raise --kv-pages or lower --concurrency");
  }
  fitting.keys = std::min(options.keys, pages * tensor::kPageSlots);
  fitting.prompt_rows = std::min(options.prompt_rows, free * tensor::kPageSlots);
  MeasuredCost::Grid grid;
  Measurement measurement(engine, fitting);
  std::exception_ptr error;
  engine.spawn(
      engine.new_request(), [&] { return measurement.run(grid, progress); },
      [&](std::exception_ptr e) { error = e; });
  engine.run();
  if (error) std::rethrow_exception(error);
  return MeasuredCost(std::move(grid));
}

}  // namespace tutti::eval
