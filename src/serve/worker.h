// Requests for one engine: admitted, queued, started on its thread, cancelled, and what they cost.
// All members are for the net thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "decode/generation.h"
#include "engine/engine.h"
#include "serve/metrics.h"
#include "serve/outbox.h"
#include "serve/score.h"

namespace tutti::serve {

struct WorkerLimits {
  int running = 64;           // requests in the engine at the same time
  int queued = 512;           // that wait for that; more: 429
  double queue_seconds = 60;  // that one may wait: 503
  double run_seconds = 3600;  // that one may take, queue included: 408
};

struct RunResult {
  std::vector<decode::Completion> completions;
  engine::RequestStatistics statistics;
  std::exception_ptr error;  // null: it went well
};

// What runs on the engine's thread.
using Program = std::function<Task<std::vector<decode::Completion>>(
    std::shared_ptr<engine::Request> request, decode::PieceSink sink)>;

class Run {
 public:
  using Clock = std::chrono::steady_clock;

  // Seconds since it was admitted; negative: has not happened.
  double started = -1, first_token = -1, ended = -1;
  double queue_seconds() const { return started < 0 ? ended : started; }

 private:
  friend class Worker;
  explicit Run(boost::asio::io_context& net) : timer(net) {}

  enum class State : uint8_t { kQueued, kRunning, kEnded } state = State::kQueued;
  enum class Stop : uint8_t {
    kNone,
    kCancelled,
    kQueueTime,
    kRunTime,
    kShutdown
  } stop = Stop::kNone;
  Clock::time_point admitted = Clock::now();
  double last_piece = -1;
  Program program;
  std::string method;
  std::function<void(const decode::Piece&)> on_piece;
  std::function<void(const RunResult&)> on_end;
  boost::asio::steady_timer timer;
  std::exception_ptr failure;                // of on_piece
  std::shared_ptr<engine::Request> request;  // the engine's thread alone
};

// An engine's counters at one moment.
struct EngineSnapshot {
  engine::EngineStatistics statistics;
  int pages = 0, free_pages = 0;
  int cached_pages = 0;  // that the prefix cache holds; requests may hold them, too
};

struct WorkerMetrics {
  uint64_t prompt_tokens = 0, generated_tokens = 0, cached_tokens = 0, proposed = 0, accepted = 0,
           draft_forwards = 0;
  std::map<std::string, uint64_t> finished;  // by reason: stop, length, abort, error
  std::map<std::string, uint64_t> methods;   // choices by the method that wrote them
  uint64_t refused = 0;
  Histogram first_token{first_token_bounds()}, between_tokens{between_tokens_bounds()},
      whole{request_bounds()}, queue{request_bounds()}, inference{request_bounds()},
      decode{request_bounds()}, prompt_lengths, generated_lengths;
  explicit WorkerMetrics(int context)
      : prompt_lengths(count_bounds(context)), generated_lengths(count_bounds(context)) {}
};

class Worker {
 public:
  // Takes the engine's on_tick listener. Before the engine runs.
  Worker(boost::asio::io_context& net, engine::Engine& engine, WorkerLimits limits);

  // Throws ApiError(429) when the queue is full, ApiError(503) after drain(). `on_end` is called
  // once, whatever happens; neither is called from within start(). `method` is what writes text,
  // for the metrics.
  std::shared_ptr<Run> start(Program program, std::function<void(const decode::Piece&)> on_piece,
                             std::function<void(const RunResult&)> on_end, std::string method = "");
  // `on_end` follows, within a tick, with an error. Ignored when it has ended.
  void cancel(const std::shared_ptr<Run>& run);
  // Refuses what is new; `idle` is called when nothing runs or waits any more.
  void drain(std::function<void()> idle);
  // The server's end: what runs or waits is told that it must end with it.
  void cancel_all();

  void snapshot(std::function<void(const EngineSnapshot&)> reader);
  // Of the engine's thread: what its on_tick listener does.
  void tick(const engine::TickReport& report);
  int running() const { return running_; }
  int queued() const { return int(queue_.size()); }
  const WorkerMetrics& metrics() const { return metrics_; }
  engine::Engine& engine() { return engine_; }
  Score& score() { return score_; }

 private:
  using Clock = Run::Clock;
  void dispatch();
  void begin(const std::shared_ptr<Run>& run);
  void piece(Run& run, const decode::Piece& piece);
  void end(const std::shared_ptr<Run>& run, RunResult result);
  void arm(const std::shared_ptr<Run>& run);
  void stop(const std::shared_ptr<Run>& run, Run::Stop why);
  void count(const Run& run, const RunResult& result);

  boost::asio::io_context& net_;
  engine::Engine& engine_;
  WorkerLimits limits_;
  Score score_;
  Outbox outbox_;  // to the net thread
  // To the engine's thread, at the next tick at the latest: its own queue may be long, as it gives
  // programs a share of the time only, and who is cancelled must not wait for a turn there.
  Outbox inbox_;
  std::deque<std::shared_ptr<Run>> queue_;
  std::vector<std::shared_ptr<Run>> active_;
  int running_ = 0;
  bool draining_ = false;
  std::function<void()> idle_;
  WorkerMetrics metrics_;
};

}  // namespace tutti::serve
