// Fused and paged: the engine's own scheduler.
#include <algorithm>

#include "base/error.h"
#include "eval/traffic/schedulers.h"

namespace tutti::eval {

EnginePrograms::EnginePrograms(Ledger& ledger)
    : ledger_(ledger), engine_(ledger.engine()), requests_(ledger.result().requests.size()) {
  engine_.on_tick([this](const engine::TickReport& report) {
    ledger_.tick(report.rows, 0);
    wake();
  });
}

EnginePrograms::~EnginePrograms() { engine_.on_tick({}); }

// The door looks up once more, also when it is not asleep.
void EnginePrograms::wake() {
  woken_ = true;
  ledger_.wake();
}

Task<void> EnginePrograms::door() {
  for (;;) {
    woken_ = false;
    const int places = ledger_.options().concurrency - ledger_.in_flight();
    ledger_.advance(places);
    for (const int id : ledger_.gone()) {
      ledger_.cancel(id);
      engine_.cancel(*requests_[size_t(id)]);
    }
    while (ledger_.in_flight() < ledger_.options().concurrency && ledger_.next() >= 0)
      start(ledger_.next());
    if (ledger_.all_ended()) break;
    if (woken_) continue;
    if (ledger_.in_flight() > 0) {
      co_await ledger_.sleep();
    } else {
      co_await ledger_.idle();
    }
  }
  if (failure_) std::rethrow_exception(failure_);
}

void EnginePrograms::start(int id) {
  ledger_.admit(id);
  const auto request = engine_.new_request();
  requests_[size_t(id)] = request;
  engine_.spawn(
      request, [this, id] { return generate(id); },
      [this, id](std::exception_ptr error) {
        requests_[size_t(id)].reset();
        // Whose client went away has ended already.
        if (!error || ledger_.result().requests[size_t(id)].end >= 0) return;
        try {
          std::rethrow_exception(error);
        } catch (const Error& e) {
          ledger_.refuse(id, e.what());
        } catch (const std::exception& e) {
          if (!failure_) failure_ = error;
          ledger_.refuse(id, e.what());
        }
        wake();
      });
}

Task<void> EnginePrograms::generate(int id) {
  const TrafficRequest& r = ledger_.request(id);
  engine::Context context(engine_, requests_[size_t(id)]);
  engine::Answer answer =
      co_await engine_.forward(context, engine::Rows::append(r.prompt, 0, ledger_.want(id)));
  while (ledger_.deliver(id, answer.rows.back().picked)) {
    engine::Rows rows;
    rows.rows.emplace_back(ledger_.last_token(id), context.next_position());
    rows.rows.back().want = ledger_.want(id);
    answer = co_await engine_.forward(context, std::move(rows));
  }
  wake();
}

}  // namespace tutti::eval
