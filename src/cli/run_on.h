// A program on a session's engine, run to its end.
#pragma once

#include <exception>
#include <memory>
#include <utility>

#include "cli/session.h"

namespace tutti::cli {

// `program` takes a new request and makes a Task<void>. Throws what it throws.
template <class Program>
void run_to_end(Session& session, Program program) {
  std::exception_ptr error;
  const auto request = session.engine().new_request();
  session.engine().spawn(
      request, [&]() -> Task<void> { co_await program(request); },
      [&](std::exception_ptr e) { error = e; });
  session.engine().run();
  if (error) std::rethrow_exception(error);
}

// The same of a program that makes a Task<T>: its value.
template <class T, class Program>
T run_on(Session& session, Program program) {
  T result{};
  run_to_end(session, [&](std::shared_ptr<engine::Request> request) -> Task<void> {
    result = co_await program(std::move(request));
  });
  return result;
}

}  // namespace tutti::cli
