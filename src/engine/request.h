// One request: whose turn it is, what it cost, and the means to cancel it. Programs and Contexts
// hold it.
#pragma once

#include <cstdint>

#include <boost/asio/cancellation_signal.hpp>

#include "engine/statistics.h"
#include "engine/task.h"

namespace tutti::engine {

struct Request {
  uint64_t id = 0;      // in order of arrival: a smaller id is older
  double weight = 1.0;  // share of the prompt budget
  double virtual_time =
      0;  // rows / weight so far, level with the others' after idleness: the smallest goes first
  int waiting = 0;  // queries put down and not answered
  bool cancelled = false;
  RequestStatistics statistics;
  asio::cancellation_signal cancel;  // emitted on the engine's thread by Engine::cancel
};

}  // namespace tutti::engine
