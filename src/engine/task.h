// The vocabulary of asynchrony: a Task is an Asio coroutine on an engine's thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace tutti {

namespace asio = boost::asio;

template <class T>
using Task = asio::awaitable<T>;

}  // namespace tutti
