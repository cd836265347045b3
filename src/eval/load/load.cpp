#include "eval/load/load.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>

#include "eval/load/answer_reader.h"
#include "eval/load/event_stream.h"

namespace tutti::eval {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostErrorBytes = 4096, kMostWholeBytes = size_t(64) << 20;

double cpu_seconds() {
  rusage used;
  if (::getrusage(RUSAGE_SELF, &used) != 0) return 0;
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

class LoadPlayer {
 public:
  LoadPlayer(asio::io_context& io, HttpClient& client, const std::vector<LoadRequest>& requests,
             const LoadOptions& options)
      : io_(io), client_(client), requests_(requests), options_(options) {
    run_.records.resize(requests.size());
  }

  LoadRun play() {
    const double cpu = cpu_seconds();
    start_ = Clock::now();
    const int clients = options_.clients > 0 ? options_.clients : 1;
    for (int c = 0; c < clients; ++c) {
      spawn([this] { return options_.clients > 0 ? closed_client() : open_arrivals(); });
    }
    io_.restart();
    // Somebody else may wait in `io` for ever, such as for a signal.
    while (running_ > 0 && io_.run_one()) {
    }
    if (failure_) std::rethrow_exception(failure_);
    run_.cpu_seconds = cpu_seconds() - cpu;
    run_.interrupted = client_.abandoned();
    for (const LoadRecord& record : run_.records) run_.seconds = std::max(run_.seconds, record.end);
    return std::move(run_);
  }

 private:
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  template <class MakeTask>
  void spawn(MakeTask make) {
    ++running_;
    asio::co_spawn(io_, make, [this](std::exception_ptr error) {
      --running_;
      if (error && !failure_) failure_ = error;
    });
  }

  asio::awaitable<void> closed_client() {
    while (next_ < requests_.size() && !client_.abandoned()) co_await one(next_++);
  }

  asio::awaitable<void> open_arrivals() {
    asio::steady_timer timer(io_);
    for (; next_ < requests_.size() && !client_.abandoned(); ++next_) {
      const auto at = start_ + std::chrono::nanoseconds(int64_t(requests_[next_].arrival * 1e9));
      // In short steps, so that an interrupt need not wait for the next arrival.
      while (Clock::now() < at && !client_.abandoned()) {
        timer.expires_at(std::min(at, Clock::now() + std::chrono::milliseconds(100)));
        co_await timer.async_wait(asio::use_awaitable);
      }
      if (client_.abandoned()) break;
      spawn([this, i = next_] { return one(i); });
    }
  }

  asio::awaitable<void> one(size_t index) {
    const LoadRequest& request = requests_[index];
    LoadRecord& record = run_.records[index];
    record.is_long = request.is_long;
    run_.most_in_flight = std::max(run_.most_in_flight, ++in_flight_);
    AnswerReader reader;
    EventStream events([&](std::string_view data) { reader.event(data, now()); });
    std::string body;
    bool as_events = false;
    HttpCall call("POST", options_.path, request.body);
    call.give_up_after = request.cancel_after;
    call.on_head = [&](int status, std::string_view type) {
      as_events = status == 200 && type.starts_with("text/event-stream");
    };
    call.on_body = [&](std::string_view bytes) {
      if (as_events) return events.feed(bytes) && reader.error().empty();
      body += bytes;
      return body.size() <= kMostWholeBytes;
    };
    record.sent = now();
    const HttpOutcome outcome = co_await client_.call(call);
    record.end = now();
    record.status = outcome.status;
    if (outcome.status == 200 && !as_events && outcome.end == HttpOutcome::kWhole)
      reader.whole(body);
    judge(record, outcome, reader, body, as_events);
    record.first_text = reader.first_text();
    record.gaps = reader.gaps();
    record.pieces = reader.pieces();
    record.prompt_tokens = reader.prompt_tokens();
    record.cached_tokens = reader.cached_tokens();
    record.output_tokens = reader.output_tokens();
    record.counted = reader.counted();
    --in_flight_;
    ++ended_;
    if (options_.on_progress) options_.on_progress(ended_, in_flight_);
  }

  void judge(LoadRecord& record, const HttpOutcome& outcome, const AnswerReader& reader,
             const std::string& body, bool as_events) const {
    record.outcome = LoadRecord::kFailed;
    if (outcome.end == HttpOutcome::kGivenUp) {
      record.outcome = client_.abandoned() ? LoadRecord::kInterrupted : LoadRecord::kCancelled;
    } else if (outcome.status != 200 && outcome.status != 0) {
      record.failure = "HTTP " + std::to_string(outcome.status);
      record.message = error_message(std::string_view(body).substr(0, kMostErrorBytes));
    } else if (!reader.error().empty()) {
      record.failure = "a wrong answer";
      record.message = reader.error();
    } else if (outcome.end == HttpOutcome::kFailed) {
      record.failure = outcome.why;
    } else if (options_.stream && !as_events) {
      record.failure = "a wrong answer";
      record.message = "a stream was asked for, and a whole answer came";
    } else if (!reader.done()) {
      record.failure = "a wrong answer";
      record.message = "the stream ended without [DONE]";
    } else {
      record.outcome = LoadRecord::kCompleted;
    }
  }

  asio::io_context& io_;
  HttpClient& client_;
  const std::vector<LoadRequest>& requests_;
  const LoadOptions& options_;
  LoadRun run_;
  Clock::time_point start_;
  size_t next_ = 0, in_flight_ = 0, ended_ = 0;
  int running_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

std::string_view name(LoadRecord::Outcome outcome) {
  switch (outcome) {
    case LoadRecord::kInterrupted:
      return "interrupted";
    case LoadRecord::kCompleted:
      return "completed";
    case LoadRecord::kCancelled:
      return "cancelled";
    case LoadRecord::kFailed:
      return "failed";
  }
  return "";
}

LoadRun run_load(asio::io_context& io, HttpClient& client, const std::vector<LoadRequest>& requests,
                 const LoadOptions& options) {
  return LoadPlayer(io, client, requests, options).play();
}

}  // namespace tutti::eval
