// From one thread to another, as an engine's and the net thread: one wake-up for all that a tick
// has to say.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <mutex>
#include <vector>

namespace tutti::serve {

class Outbox {
 public:
  explicit Outbox(boost::asio::io_context& to) : to_(to) {}

  // Any thread; `message` runs on the thread of `to`, in the order of the calls.
  void post(std::function<void()> message) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(message));
    if (scheduled_) return;
    scheduled_ = true;
    boost::asio::post(to_, [this] { deliver(); });
  }

  // On the thread of `to`: now what waits, ahead of all that it has been posted besides.
  void deliver() {
    std::vector<std::function<void()>> messages;
    {
      const std::lock_guard lock(mutex_);
      messages.swap(waiting_);
      scheduled_ = false;
    }
    for (const auto& message : messages) message();
  }

 private:
  boost::asio::io_context& to_;
  std::mutex mutex_;
  std::vector<std::function<void()>> waiting_;
  bool scheduled_ = false;
};

}  // namespace tutti::serve
