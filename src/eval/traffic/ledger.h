// What all schedulers of a trace share: the clock, who waits, who is in flight, and what became of
// each request. Used on the engine's thread, between iterations.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "eval/traffic/traffic.h"

namespace tutti::eval {

class Ledger {
 public:
  // `longest`: tokens of prompt and output together; `pages`: what one request may hold at most.
  Ledger(engine::Engine& engine, const Trace& trace, const TrafficOptions& options, int longest,
         int pages);

  engine::Engine& engine() { return engine_; }
  const TrafficOptions& options() const { return options_; }
  const TrafficRequest& request(int id) const { return trace_[size_t(id)]; }
  TrafficResult& result() { return result_; }

  // The trace begins now.
  void begin() { start_ = std::chrono::steady_clock::now(); }
  double now() const;
  bool all_ended() const { return ended_ == int(trace_.size()); }
  int in_flight() const { return int(flying_.size()); }
  int waiting() const { return int(queue_.size()); }

  // Between two iterations: requests that arrived join the queue or are refused (more would wait
  // than may, when `places` of them need not), and waiting ones whose client went away leave it.
  void advance(int places);
  // Requests in flight whose client went away; the caller ends them.
  std::vector<int> gone() const;
  // Who waits and would be admitted next, by the policy; -1: nobody.
  int next() const;
  void admit(int id);
  // When the first of those that wait arrived.
  double oldest() const { return trace_[size_t(queue_.front())].arrival; }
  // Lets time pass until the next arrival, or until `earlier` when that comes first (fake clocks
  // jump there).
  Task<void> idle(double earlier = std::numeric_limits<double>::infinity());
  // Waits for wake().
  Task<void> sleep();
  // Ends an idle() or a sleep().
  void wake() { timer_.cancel(); }

  // How token number `tokens.size()` of a request is picked.
  engine::Want want(int id) const;
  // The request got a token; false when that was its last, or came too late: it has ended.
  bool deliver(int id, const engine::Picked& picked);
  int32_t last_token(int id) const;
  void cancel(int id) { end(id, RequestRecord::kCancelled); }
  void refuse(int id, std::string reason);

  // An iteration was run.
  void tick(int rows, int dead_rows);
  void moved(uint64_t bytes);
  // Pages of 32 slots that a request may need.
  int pages_of(int id) const;

 private:
  void end(int id, RequestRecord::Outcome outcome);
  void report();

  engine::Engine& engine_;
  const Trace& trace_;
  const TrafficOptions& options_;
  int longest_;
  int pages_;
  TrafficResult result_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double fake_now_ = 0;
  asio::steady_timer timer_;
  size_t next_arrival_ = 0;
  std::deque<int> queue_;
  std::vector<int> flying_;  // by admission
  std::vector<std::shared_ptr<engine::History>>
      histories_;  // of requests in flight, when their rules look back
  int ended_ = 0;
  std::vector<int> added_;  // since the last iteration
  uint64_t moved_ = 0;      // since the last iteration
  size_t reported_ = 0;     // iterations that on_tick was told of
};

}  // namespace tutti::eval
