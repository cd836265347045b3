#include "serve/worker.h"

#include <algorithm>
#include <cstdio>

#include "base/exception_text.h"
#include "formats/json_text.h"
#include "serve/api_error.h"

namespace tutti::serve {

namespace asio = boost::asio;

Worker::Worker(asio::io_context& net, engine::Engine& engine, WorkerLimits limits)
    : net_(net),
      engine_(engine),
      limits_(limits),
      score_(engine),
      outbox_(net),
      inbox_(engine.io()),
      metrics_(engine.model().config().context_length) {
  engine.on_tick([this](const engine::TickReport& report) { tick(report); });
}

void Worker::tick(const engine::TickReport& report) {
  score_.tick(report);
  inbox_.deliver();
}

namespace {

double since(Run::Clock::time_point start) {
  return std::chrono::duration<double>(Run::Clock::now() - start).count();
}

Run::Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Run::Clock::duration>(std::chrono::duration<double>(s));
}

// What failed in the server itself: its client may hear no more than that.
void log_failure(const std::exception_ptr& error) {
  if (!error || api_error(error).status != 500) return;
  std::fprintf(stderr, "serve: a request failed: %s\n",
               formats::print_json(text_of(error)).c_str());
}

}  // namespace

std::shared_ptr<Run> Worker::start(Program program,
                                   std::function<void(const decode::Piece&)> on_piece,
                                   std::function<void(const RunResult&)> on_end,
                                   std::string method) {
  if (draining_) {
    ApiError error(503, "unavailable_error", "the server is shutting down; try another one");
    error.retry_after = 5;
    throw error;
  }
  if (running_ + int(queue_.size()) >= limits_.running + limits_.queued) {
    ++metrics_.refused;
    ApiError error(
        429, "overloaded",
        "the queue of " + std::to_string(limits_.queued) + " requests is full; try later");
    error.retry_after = 1;
    throw error;
  }
  std::shared_ptr<Run> run(new Run(net_));
  run->program = std::move(program);
  run->on_piece = std::move(on_piece);
  run->on_end = std::move(on_end);
  run->method = std::move(method);
  queue_.push_back(run);
  arm(run);
  asio::post(net_, [this] { dispatch(); });
  return run;
}

// The next moment at which the run would be stopped.
void Worker::arm(const std::shared_ptr<Run>& run) {
  const bool waits =
      run->state == Run::State::kQueued && limits_.queue_seconds < limits_.run_seconds;
  run->timer.expires_at(run->admitted +
                        seconds(waits ? limits_.queue_seconds : limits_.run_seconds));
  run->timer.async_wait(
      [this, weak = std::weak_ptr<Run>(run), waits](const boost::system::error_code& error) {
        const auto run = weak.lock();
        if (error || !run || run->state == Run::State::kEnded ||
            (waits && run->state != Run::State::kQueued))
          return;
        stop(run, waits ? Run::Stop::kQueueTime : Run::Stop::kRunTime);
      });
}

void Worker::dispatch() {
  while (!queue_.empty() && running_ < limits_.running) {
    const std::shared_ptr<Run> run = queue_.front();
    queue_.pop_front();
    begin(run);
  }
}

void Worker::begin(const std::shared_ptr<Run>& run) {
  run->state = Run::State::kRunning;
  run->started = since(run->admitted);
  ++running_;
  active_.push_back(run);
  arm(run);
  inbox_.post([this, run] {
    run->request = engine_.new_request();
    auto result = std::make_shared<RunResult>();
    score_.began(run->request);
    const auto sink = [this, run](const decode::Piece& piece) {
      score_.wrote(run->request->id, piece);
      outbox_.post([this, run, piece] { this->piece(*run, piece); });
    };
    engine_.spawn(
        run->request,
        [run, result, sink]() -> Task<void> {
          Program program = std::move(run->program);
          result->completions = co_await program(run->request, sink);
        },
        [this, run, result](std::exception_ptr error) {
          result->error = error;
          result->statistics = run->request->statistics;
          score_.ended(run->request->id);
          outbox_.post([this, run, result] { end(run, std::move(*result)); });
        });
  });
}

void Worker::piece(Run& run, const decode::Piece& piece) {
  if (run.state != Run::State::kRunning || run.stop != Run::Stop::kNone) return;
  const double now = since(run.admitted);
  if (run.first_token < 0) {
    run.first_token = now;
    metrics_.first_token.observe(now);
  } else if (!piece.ids.empty()) {
    metrics_.between_tokens.observe((now - run.last_piece) / double(piece.ids.size()));
  }
  run.last_piece = now;
  if (!run.on_piece) return;
  try {
    run.on_piece(piece);
  } catch (...) {
    // One answer's mistake must not end the server: it is that request's error.
    run.failure = std::current_exception();
    run.on_piece = {};
  }
}

void Worker::cancel(const std::shared_ptr<Run>& run) { stop(run, Run::Stop::kCancelled); }

void Worker::stop(const std::shared_ptr<Run>& run, Run::Stop why) {
  if (run->state == Run::State::kEnded || run->stop != Run::Stop::kNone) return;
  run->stop = why;
  if (run->state == Run::State::kQueued) {
    std::erase(queue_, run);
    // Not from within start() or the caller's own handler.
    asio::post(net_, [this, run] { end(run, {}); });
    return;
  }
  inbox_.post([this, run] { engine_.cancel(*run->request); });
}

void Worker::end(const std::shared_ptr<Run>& run, RunResult result) {
  if (run->state == Run::State::kEnded) return;
  if (run->state == Run::State::kRunning) {
    --running_;
    std::erase(active_, run);
  }
  run->state = Run::State::kEnded;
  run->ended = since(run->admitted);
  run->timer.cancel();
  switch (run->stop) {
    case Run::Stop::kNone:
      break;
    case Run::Stop::kCancelled:
      result.error =
          std::make_exception_ptr(ApiError(499, "cancelled", "the request was cancelled"));
      break;
    case Run::Stop::kQueueTime: {
      ApiError error(503, "overloaded", "the request waited too long for its turn; try later");
      error.retry_after = 5;
      result.error = std::make_exception_ptr(error);
      break;
    }
    case Run::Stop::kRunTime:
      result.error = std::make_exception_ptr(ApiError(
          408, "timeout", "the request took longer than this server allows; ask for less"));
      break;
    case Run::Stop::kShutdown:
      result.error = std::make_exception_ptr(ApiError(
          503, "unavailable_error", "the server ended before the request did; try another one"));
      break;
  }
  if (run->failure && !result.error) result.error = run->failure;
  log_failure(result.error);
  count(*run, result);
  const auto on_end = std::exchange(run->on_end, {});
  run->on_piece = {};
  try {
    if (on_end) on_end(result);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "serve: an answer could not be written: %s\n", e.what());
  }
  dispatch();
  if (draining_ && running_ == 0 && queue_.empty()) {
    if (auto idle = std::exchange(idle_, {})) idle();
  }
}

void Worker::count(const Run& run, const RunResult& result) {
  WorkerMetrics& m = metrics_;
  m.whole.observe(run.ended);
  m.queue.observe(run.queue_seconds());
  if (run.started >= 0) m.inference.observe(run.ended - run.started);
  if (run.first_token >= 0) m.decode.observe(run.ended - run.first_token);
  m.prompt_tokens += result.statistics.prompt_tokens;
  m.cached_tokens += result.statistics.cached_tokens;
  m.generated_tokens += result.statistics.tokens;
  if (result.error) {
    ++m.finished[run.stop == Run::Stop::kNone ? "error" : "abort"];
    return;
  }
  m.prompt_lengths.observe(double(result.statistics.prompt_tokens));
  if (result.completions.empty()) ++m.finished["stop"];  // vectors, no text
  for (const decode::Completion& c : result.completions) {
    m.generated_lengths.observe(double(c.ids.size()));
    m.proposed += c.statistics.proposed;
    m.accepted += c.statistics.accepted;
    m.draft_forwards += c.statistics.draft_forwards;
    if (!run.method.empty()) ++m.methods[run.method];
    ++m.finished[std::string(decode::name(c.finish))];
  }
}

void Worker::drain(std::function<void()> idle) {
  draining_ = true;
  idle_ = std::move(idle);
  if (running_ == 0 && queue_.empty()) {
    if (auto now = std::exchange(idle_, {})) asio::post(net_, std::move(now));
  }
}

void Worker::cancel_all() {
  const std::vector<std::shared_ptr<Run>> waiting(queue_.begin(), queue_.end()), running = active_;
  for (const auto& run : waiting) stop(run, Run::Stop::kShutdown);
  for (const auto& run : running) stop(run, Run::Stop::kShutdown);
}

void Worker::snapshot(std::function<void(const EngineSnapshot&)> reader) {
  inbox_.post([this, reader = std::move(reader)] {
    EngineSnapshot now{engine_.statistics(), engine_.pages().total(), engine_.pages().free(),
                       engine_.prefix_cache().size()};
    outbox_.post([reader, now] { reader(now); });
  });
}

}  // namespace tutti::serve
