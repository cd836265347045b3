// For tests: programs side by side on an engine.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "engine/engine.h"

namespace tutti::engine {

using TestProgram = std::function<Task<void>(std::shared_ptr<Request>)>;

// Runs each program under a request of its own until all have ended, and passes the first exception
// on.
inline void run_all(Engine& engine, const std::vector<TestProgram>& programs) {
  std::exception_ptr first;
  for (const auto& program : programs) {
    const auto request = engine.new_request();
    engine.spawn(
        request, [&program, request]() -> Task<void> { co_await program(request); },
        [&](std::exception_ptr e) {
          if (e && !first) first = e;
        });
  }
  engine.run();
  if (first) std::rethrow_exception(first);
}

}  // namespace tutti::engine
