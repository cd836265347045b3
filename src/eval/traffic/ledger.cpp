#include "eval/traffic/ledger.h"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <utility>

namespace tutti::eval {

using Clock = std::chrono::steady_clock;

Ledger::Ledger(engine::Engine& engine, const Trace& trace, const TrafficOptions& options,
               int longest, int pages)
    : engine_(engine),
      trace_(trace),
      options_(options),
      longest_(longest),
      pages_(pages),
      timer_(engine.io()) {
  result_.requests.resize(trace.size());
  histories_.resize(trace.size());
  for (size_t i = 0; i < trace.size(); ++i) result_.requests[i].arrival = trace[i].arrival;
}

double Ledger::now() const {
  if (options_.tick_seconds > 0) return fake_now_;
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

int Ledger::pages_of(int id) const {
  const TrafficRequest& r = trace_[size_t(id)];
  return (int(r.prompt.size()) + r.output_tokens + tensor::kPageSlots - 1) / tensor::kPageSlots;
}

void Ledger::advance(int places) {
  report();
  const double t = now();
  for (; next_arrival_ < trace_.size() && trace_[next_arrival_].arrival <= t; ++next_arrival_) {
    const int id = int(next_arrival_);
    const TrafficRequest& r = trace_[next_arrival_];
    const int tokens = int(r.prompt.size()) + r.output_tokens;
    if (tokens > longest_) {
      refuse(id, "prompt and output of " + std::to_string(tokens) + " tokens do not fit " +
                     std::to_string(longest_) + "; shorten the request" +
                     (options_.slot_tokens > 0 ? " or make slots longer" : ""));
    } else if (pages_of(id) > pages_) {
      refuse(id, "needs " + std::to_string(pages_of(id)) + " pages of 32 slots, there are " +
                     std::to_string(pages_) + "; raise the KV budget or shorten the request");
    } else if (options_.queue > 0 && waiting() >= options_.queue + places) {
      refuse(id, "the queue of " + std::to_string(options_.queue) + " is full; come again later");
    } else {
      queue_.push_back(id);
    }
  }
  const std::vector<int> queued(queue_.begin(), queue_.end());
  for (const int id : queued) {
    const TrafficRequest& r = trace_[size_t(id)];
    if (r.cancel_after >= 0 && r.arrival + r.cancel_after <= t) {
      std::erase(queue_, id);
      end(id, RequestRecord::kCancelled);
    }
  }
}

std::vector<int> Ledger::gone() const {
  const double t = now();
  std::vector<int> ids;
  for (const int id : flying_) {
    const TrafficRequest& r = trace_[size_t(id)];
    if (r.cancel_after >= 0 && r.arrival + r.cancel_after <= t) ids.push_back(id);
  }
  return ids;
}

int Ledger::next() const {
  if (queue_.empty()) return -1;
  if (options_.admission == Admission::kFirstCome) return queue_.front();
  return *std::min_element(queue_.begin(), queue_.end(), [&](int a, int b) {
    return std::pair(trace_[size_t(a)].prompt.size(), a) <
           std::pair(trace_[size_t(b)].prompt.size(), b);
  });
}

void Ledger::admit(int id) {
  std::erase(queue_, id);
  flying_.push_back(id);
  added_.push_back(id);
  RequestRecord& record = result_.requests[size_t(id)];
  record.admitted = now();
  record.join = int(result_.ticks.size());
  const engine::Sampling& sampling = trace_[size_t(id)].sampling;
  if (sampling.needs_history()) {
    histories_[size_t(id)] = std::make_shared<engine::History>(sampling.penalty_window);
    histories_[size_t(id)]->append_prompt(trace_[size_t(id)].prompt);
  }
}

Task<void> Ledger::idle(double earlier) {
  double until = earlier;
  if (next_arrival_ < trace_.size()) until = std::min(until, trace_[next_arrival_].arrival);
  if (options_.tick_seconds > 0) {
    fake_now_ = std::max(fake_now_, until);
    co_return;
  }
  timer_.expires_at(
      start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(until)));
  boost::system::error_code ignored;
  co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

Task<void> Ledger::sleep() {
  timer_.expires_at(Clock::time_point::max());
  boost::system::error_code ignored;
  co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

engine::Want Ledger::want(int id) const {
  const TrafficRequest& r = trace_[size_t(id)];
  engine::Want want;
  want.pick = true;
  want.sampling = r.sampling;
  want.history = histories_[size_t(id)];
  // The noise belongs to the position where the token will stand: the same whatever else runs.
  want.key.seed = r.seed;
  want.key.position = uint32_t(r.prompt.size() + result_.requests[size_t(id)].tokens.size());
  return want;
}

bool Ledger::deliver(int id, const engine::Picked& picked) {
  const TrafficRequest& r = trace_[size_t(id)];
  RequestRecord& record = result_.requests[size_t(id)];
  if (record.end >= 0) return false;
  if (record.tokens.empty()) record.first_token = now();
  record.tokens.push_back(picked.token);
  if (histories_[size_t(id)]) histories_[size_t(id)]->append_output(picked.token);
  ++result_.tokens;
  if (!result_.ticks.empty()) ++result_.ticks.back().tokens;
  const auto& ends = options_.end_ids;
  const bool stop =
      !r.ignore_eos && std::find(ends.begin(), ends.end(), picked.token) != ends.end();
  if (!stop && int(record.tokens.size()) < r.output_tokens) return true;
  end(id, RequestRecord::kFinished);
  return false;
}

int32_t Ledger::last_token(int id) const {
  const auto& tokens = result_.requests[size_t(id)].tokens;
  return tokens.empty() ? trace_[size_t(id)].prompt.back() : tokens.back();
}

void Ledger::refuse(int id, std::string reason) {
  result_.requests[size_t(id)].reason = std::move(reason);
  end(id, RequestRecord::kRefused);
}

void Ledger::end(int id, RequestRecord::Outcome outcome) {
  RequestRecord& record = result_.requests[size_t(id)];
  record.outcome = outcome;
  record.end = now();
  if (record.join >= 0) record.leave = int(result_.ticks.size());
  std::erase(flying_, id);
  histories_[size_t(id)].reset();
  ++ended_;
  result_.seconds = std::max(result_.seconds, record.end);
  (outcome == RequestRecord::kFinished    ? result_.finished
   : outcome == RequestRecord::kCancelled ? result_.cancelled
                                          : result_.refused) += 1;
  if (record.join >= 0 && !result_.ticks.empty()) result_.ticks.back().ended.push_back(id);
}

void Ledger::tick(int rows, int dead_rows) {
  if (options_.tick_seconds > 0) fake_now_ += options_.tick_seconds;
  TickRecord tick;
  tick.end = now();
  tick.in_flight = in_flight();
  tick.waiting = waiting();
  tick.rows = rows;
  tick.dead_rows = dead_rows;
  tick.pages = engine_.pages().referenced();
  tick.moved_bytes = std::exchange(moved_, 0);
  tick.added = std::exchange(added_, {});
  result_.rows += uint64_t(rows);
  result_.dead_rows += uint64_t(dead_rows);
  result_.ticks.push_back(std::move(tick));
}

void Ledger::moved(uint64_t bytes) {
  moved_ += bytes;
  result_.moved_bytes += bytes;
  ++result_.shuffles;
}

void Ledger::report() {
  for (; reported_ < result_.ticks.size(); ++reported_) {
    if (options_.on_tick) options_.on_tick(result_.ticks[reported_]);
  }
}

}  // namespace tutti::eval
