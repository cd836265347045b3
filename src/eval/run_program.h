// Programs of an engine that nothing else uses, from their start to their end.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include "decode/generation.h"
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

// Answers questions 0 … `count` - 1, `batch` of them at a time, each by a request of its own, and
// passes the first exception on. Returns the seconds that it took.
inline double answer_all(
    engine::Engine& engine, int count, int batch,
    const std::function<Task<void>(int question, std::shared_ptr<engine::Request>)>& answer) {
  int next = 0;
  std::exception_ptr error;
  const auto start = std::chrono::steady_clock::now();
  for (int lane = 0; lane < std::min(batch, count); ++lane) {
    const auto first_request = engine.new_request();
    engine.spawn(
        first_request,
        [&, first_request]() -> Task<void> {
          auto request = first_request;
          while (next < count) {
            co_await answer(next++, request);
            request = engine.new_request();
          }
        },
        [&](std::exception_ptr e) {
          if (e && !error) error = e;
        });
  }
  engine.run();
  if (error) std::rethrow_exception(error);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// With the end token, where one ended it.
inline uint64_t tokens_of(const decode::Completion& c) {
  return c.ids.size() + (c.finish == decode::Finish::kStop ? 1 : 0);
}
// Of methods that keep no count: one a token.
inline uint64_t forwards_of(const decode::Completion& c) {
  return c.statistics.forwards > 0 ? c.statistics.forwards : tokens_of(c);
}

}  // namespace tutti::eval
