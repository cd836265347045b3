// The score: what an engine does tick by tick, for whoever watches. Rows of each request, tokens
// of each lane, positions that a masked model wrote; no text.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "decode/generation.h"
#include "engine/engine.h"

namespace tutti::serve {

// One forward, and what came of it before the next.
struct ScoreTick {
  engine::TickReport report;
  int pages = 0, free_pages = 0;
  struct Part {
    uint64_t request;
    uint64_t rows;
  };
  std::vector<Part> parts;
  // A lane is a choice of a request.
  struct Lane {
    uint64_t request;
    int choice;
    int tokens;
  };
  std::vector<Lane> lanes;
  struct Canvas {
    uint64_t request;
    int choice;
    int length;                  // of the answer
    std::vector<int> positions;  // of the answer, written by this forward
  };
  std::vector<Canvas> canvases;
  std::vector<uint64_t> ended;  // requests

  ScoreTick() = default;
};

class Score {
 public:
  static constexpr size_t kMostTicks = 512;       // kept for a watcher; then the oldest are dropped
  static constexpr size_t kMostLanes = 256;       // of a tick that are told
  static constexpr size_t kMostPositions = 1024;  // of a canvas and tick

  explicit Score(engine::Engine& engine) : engine_(engine) {}

  // Of the engine's thread. Every tick's report is to be given.
  void tick(const engine::TickReport& report);
  void began(const std::shared_ptr<engine::Request>& request);
  void wrote(uint64_t request, const decode::Piece& piece);
  void wrote(uint64_t request, const decode::CanvasStep& step);
  void ended(uint64_t request);

  // Of any thread. Without a watcher nothing is kept.
  void watch(bool on);
  struct Taken {
    std::vector<ScoreTick> ticks;
    uint64_t lost = 0;  // ticks that were dropped
  };
  Taken take();

 private:
  struct Active {
    std::shared_ptr<engine::Request> request;
    uint64_t rows = 0;  // so far, as of the last tick
  };
  bool watched() const { return watched_.load(std::memory_order_relaxed); }

  engine::Engine& engine_;
  std::map<uint64_t, Active> active_;  // the engine's thread alone
  std::atomic<bool> watched_ = false;
  std::mutex mutex_;  // of what follows
  bool idle_ = true;
  ScoreTick now_;  // the last tick, to which tokens still come
  bool has_now_ = false;
  std::deque<ScoreTick> ticks_;
  uint64_t lost_ = 0;
};

}  // namespace tutti::serve
