#include "decode/side_by_side.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <vector>

namespace tutti::decode {

Task<void> side_by_side(size_t first, size_t last, std::function<Task<void>(size_t)> start) {
  const auto executor = co_await asio::this_coro::executor;
  const auto spawned = [&](size_t i) {
    return asio::co_spawn(
        executor, [&start, i]() -> Task<void> { co_await start(i); }, asio::deferred);
  };
  std::vector<decltype(spawned(0))> running;
  for (size_t i = first; i < last; ++i) running.push_back(spawned(i));
  if (running.empty()) co_return;
  auto [order, errors] =
      co_await asio::experimental::make_parallel_group(std::move(running))
          .async_wait(asio::experimental::wait_for_one_error(), asio::use_awaitable);
  for (const size_t i : order) {
    if (errors[i]) std::rethrow_exception(errors[i]);
  }
}

}  // namespace tutti::decode
