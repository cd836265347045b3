#include "decode/speculative/draft_thread.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace tutti::decode::speculative {

DraftThread::DraftThread(std::shared_ptr<engine::Engine> engine)
    : engine_(std::move(engine)), thread_([this] { serve(); }) {}

void DraftThread::serve() {
  for (;;) {
    try {
      return engine_->serve();
    } catch (...) {
      if (ending_) return;
    }
  }
}

void DraftThread::end() {
  if (!thread_.joinable()) return;
  ending_ = true;
  asio::post(engine_->io(), [this] { engine_->stop(); });
  thread_.join();
}

}  // namespace tutti::decode::speculative
