// Sends the scores of the served models to whoever watches, as server-sent events of JSON.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <vector>

#include "serve/http_server.h"
#include "serve/served_model.h"

namespace tutti::serve {

// For the net thread.
class ScoreFeed {
 public:
  static constexpr size_t kMostWatchers = 16;
  static constexpr double kSecondsBetween = 0.1;

  ScoreFeed(boost::asio::io_context& net, std::vector<ServedModel*> models);

  // Answers with a stream that ends when the client goes. Throws ApiError(503) when too many watch.
  void add(const std::shared_ptr<HttpExchange>& watcher);
  // Ends all streams.
  void close();
  size_t watchers() const { return watchers_.size(); }

 private:
  void arm();
  void send();
  void set_watched(bool on);

  std::vector<ServedModel*> models_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<std::shared_ptr<HttpExchange>> watchers_;
  int silent_ = 0;  // rounds since the last event
};

}  // namespace tutti::serve
