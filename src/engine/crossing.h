// Ways out of an engine's thread and back: to another engine, and to plain threads for long host
// work.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include "engine/engine.h"

namespace tutti::engine {

template <class Program>
using ResultOf = typename std::invoke_result_t<Program&>::value_type;

// Runs `program` (a callable that makes a Task) on `engine`'s thread, as one of its programs, and
// comes back to the caller's thread with its value or exception. A cancellation of the caller
// reaches the program, and the caller goes on when the program has ended. Only values may cross:
// the program owns what it uses, and a Context stays with its engine. The other engine must be in
// serve(), or in run() with work of its own.
template <class Program>
Task<ResultOf<Program>> on(Engine& engine, Program program) {
  using Value = ResultOf<Program>;
  static_assert(!std::is_reference_v<Value> && !std::is_pointer_v<Value>,
                "only values cross between engines");
  static_assert(!std::is_same_v<Value, Context>, "a Context stays with its engine");
  // The frame of the spawned coroutine owns the program: the caller's frame may be gone when it is
  // destroyed.
  auto visit = [&engine, program = std::move(program)]() mutable -> Task<Value> {
    const Engine::Visit guard(engine);
    co_return co_await program();
  };
  co_return co_await asio::co_spawn(engine.io(), std::move(visit), asio::use_awaitable);
}

// Runs `work` (host work longer than a program may take between two ticks) on a thread of its own
// and comes back to `engine`'s thread with its value or exception. `work` is called with a
// std::stop_token if it takes one. It must own what it touches: a cancelled caller goes on at once,
// and the work, told by its token, ends when it ends.
template <class Work>
auto offload(Engine& engine, Work work) {
  constexpr bool kStoppable = std::is_invocable_v<Work&, std::stop_token>;
  using Value = typename std::conditional_t<kStoppable, std::invoke_result<Work&, std::stop_token>,
                                            std::invoke_result<Work&>>::type;
  static_assert(!std::is_reference_v<Value>, "offloaded work returns a value");
  struct Nothing {};
  using Kept = std::conditional_t<std::is_void_v<Value>, Nothing, Value>;
  struct State {
    explicit State(Work w) : work(std::move(w)) {}
    Work work;
    std::stop_source stop;
    std::optional<Kept> value;
    std::exception_ptr error;
    bool resumed = false;  // of the engine's thread
    asio::any_completion_handler<void(std::exception_ptr)> resume;
  };
  return [](Engine& engine, std::shared_ptr<State> state) -> Task<Value> {
    const auto token = state->stop.get_token();
    // Named: g++ 12 destroys a closure twice that is a temporary of a co_await expression.
    const auto start = [&engine, state](auto handler) {
      auto slot = asio::get_associated_cancellation_slot(handler);
      state->resume = std::move(handler);
      const auto resume = [](State& s, std::exception_ptr error) {
        if (std::exchange(s.resumed, true)) return;
        std::move(s.resume)(error);
      };
      if (slot.is_connected()) {
        slot.assign([&engine, weak = std::weak_ptr<State>(state), resume](asio::cancellation_type) {
          const auto state = weak.lock();
          if (!state) return;
          state->stop.request_stop();
          asio::post(engine.io(), [state, resume] {
            resume(*state, std::make_exception_ptr(
                               boost::system::system_error(asio::error::operation_aborted)));
          });
        });
      }
      engine.offload([state, resume, io = engine.io().get_executor()] {
        try {
          // Whoever wanted it has gone while it waited for its thread.
          if (state->stop.stop_requested())
            throw boost::system::system_error(asio::error::operation_aborted);
          if constexpr (kStoppable && std::is_void_v<Value>) {
            state->work(state->stop.get_token());
          } else if constexpr (kStoppable) {
            state->value.emplace(state->work(state->stop.get_token()));
          } else if constexpr (std::is_void_v<Value>) {
            state->work();
          } else {
            state->value.emplace(state->work());
          }
        } catch (...) {
          state->error = std::current_exception();
        }
        asio::post(io, [state, resume] { resume(*state, state->error); });
      });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
        start, asio::use_awaitable);
    if constexpr (!std::is_void_v<Value>) co_return std::move(*state->value);
  }(engine, std::make_shared<State>(std::move(work)));
}

}  // namespace tutti::engine
