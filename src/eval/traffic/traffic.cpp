#include "eval/traffic/traffic.h"

#include <algorithm>

#include "base/error.h"
#include "eval/traffic/schedulers.h"

namespace tutti::eval {

std::string_view name(Scheduler scheduler) {
  switch (scheduler) {
    case Scheduler::kFused:
      return "fused";
    case Scheduler::kDynamicBatch:
      return "dynamic-batch";
    case Scheduler::kInstances:
      return "instances";
  }
  return "";
}

std::string_view name(Layout layout) { return layout == Layout::kPaged ? "paged" : "contiguous"; }

std::string_view name(Shuffle shuffle) {
  switch (shuffle) {
    case Shuffle::kOff:
      return "off";
    case Shuffle::kOn:
      return "on";
    case Shuffle::kAuto:
      return "auto";
  }
  return "";
}

std::string_view name(RequestRecord::Outcome outcome) {
  switch (outcome) {
    case RequestRecord::kFinished:
      return "finished";
    case RequestRecord::kCancelled:
      return "cancelled";
    case RequestRecord::kRefused:
      return "refused";
  }
  return "";
}

double TrafficResult::mean_in_flight() const {
  double sum = 0;
  for (const TickRecord& tick : ticks) sum += tick.in_flight;
  return ticks.empty() ? 0 : sum / double(ticks.size());
}

namespace {

void check(const engine::Engine& engine, const Trace& trace, const TrafficOptions& o) {
  const auto bad = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, "traffic: " + what);
  };
  if (trace.empty()) bad("the trace is empty; give at least one request");
  if (o.concurrency < 1)
    bad("a concurrency of " + std::to_string(o.concurrency) + "; at least 1 is needed");
  if (o.prompt_rows < 1) bad("prompt rows of an iteration: at least 1");
  if (o.queue < 0) bad("a queue of " + std::to_string(o.queue) + "; give a number, or 0 for any");
  if (!(o.window_seconds >= 0) || !(o.tick_seconds >= 0))
    bad("a time is below 0; give seconds from 0");
  if (o.slot_tokens < 0)
    bad("slots of " + std::to_string(o.slot_tokens) +
        " tokens; give a number, or 0 for the longest request");
  const int vocab = engine.model().config().vocab;
  for (size_t i = 0; i < trace.size(); ++i) {
    const TrafficRequest& r = trace[i];
    const std::string place = "request " + std::to_string(i) + ": ";
    if (r.prompt.empty()) bad(place + "its prompt is empty; give at least one token");
    if (r.output_tokens < 1) bad(place + "wants no token; give at least 1");
    if (!(r.arrival >= 0) || (i > 0 && r.arrival < trace[i - 1].arrival)) {
      bad(place + "arrives before the one before it; sort the trace by arrival");
    }
    for (const int32_t id : r.prompt) {
      if (id < 0 || id >= vocab)
        bad(place + "token " + std::to_string(id) + " is not in the vocabulary");
    }
    engine::validate(r.sampling, vocab);
  }
}

}  // namespace

TrafficResult run_traffic(engine::Engine& engine, const Trace& trace,
                          const TrafficOptions& options) {
  check(engine, trace, options);
  const int context = engine.model().config().context_length;
  int longest = context, pages = engine.pages().total();
  const bool contiguous =
      options.scheduler == Scheduler::kFused && options.layout == Layout::kContiguous;
  if (contiguous) {
    int slot = options.slot_tokens;
    for (const auto& r : trace) {
      if (options.slot_tokens == 0) slot = std::max(slot, int(r.prompt.size()) + r.output_tokens);
    }
    longest = std::min(slot, context);
  }
  if (options.scheduler == Scheduler::kDynamicBatch) pages -= scratch_pages(options.concurrency);

  Ledger ledger(engine, trace, options, longest, pages);
  std::unique_ptr<EnginePrograms> programs;
  std::unique_ptr<LaneScheduler> lanes;
  if (contiguous) {
    lanes = contiguous_scheduler(ledger, longest);
  } else if (options.scheduler == Scheduler::kDynamicBatch) {
    lanes = dynamic_batch_scheduler(ledger);
  } else if (options.scheduler == Scheduler::kInstances) {
    lanes = instances_scheduler(ledger);
  } else {
    programs = std::make_unique<EnginePrograms>(ledger);
  }
  std::exception_ptr failure;
  ledger.begin();
  engine.spawn(
      engine.new_request(), [&] { return lanes ? lanes->run() : programs->door(); },
      [&](std::exception_ptr e) { failure = e; });
  engine.run();
  if (failure) std::rethrow_exception(failure);
  return std::move(ledger.result());
}

}  // namespace tutti::eval
