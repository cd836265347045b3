// A program of an engine that nothing else uses, from its start to its end.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include "engine/engine.h"

namespace tutti::eval {

// Runs the engine until it is idle, and passes the program's exception on.
inline void run_to_end(engine::Engine& engine, const std::shared_ptr<engine::Request>& request,
                       std::function<Task<void>()> program) {
  std::exception_ptr error;
  engine.spawn(request, std::move(program), [&](std::exception_ptr e) { error = e; });
  engine.run();
  if (error) std::rethrow_exception(error);
}

}  // namespace tutti::eval
