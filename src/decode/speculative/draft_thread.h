// A draft model's engine on a thread of its own.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "engine/engine.h"

namespace tutti::decode::speculative {

class DraftThread {
 public:
  // Serves `engine` from now on. A forward that fails ends the requests that wait for it, which are
  // told (RemoteDraft); the engine goes on, as others end on it what they have there.
  explicit DraftThread(std::shared_ptr<engine::Engine> engine);
  ~DraftThread() { end(); }
  DraftThread(const DraftThread&) = delete;
  DraftThread& operator=(const DraftThread&) = delete;
  // Behind what was posted to the engine before.
  void end();

 private:
  void serve();

  std::shared_ptr<engine::Engine> engine_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace tutti::decode::speculative
