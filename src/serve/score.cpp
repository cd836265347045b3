#include "serve/score.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tutti::serve {

void Score::began(const std::shared_ptr<engine::Request>& request) {
  active_[request->id] = {request, request->statistics.rows};
  const std::lock_guard lock(mutex_);
  idle_ = false;
}

void Score::tick(const engine::TickReport& report) {
  ScoreTick next;
  next.report = report;
  const bool on = watched();
  for (auto& [id, active] : active_) {
    const uint64_t rows = active.request->statistics.rows;
    if (on && rows > active.rows) next.parts.push_back({id, rows - active.rows});
    active.rows = rows;
  }
  if (!on) return;
  next.pages = engine_.pages().total();
  next.free_pages = engine_.pages().free();
  const std::lock_guard lock(mutex_);
  if (has_now_) ticks_.push_back(std::move(now_));
  now_ = std::move(next);
  has_now_ = true;
  if (ticks_.size() > kMostTicks) {
    ticks_.pop_front();
    ++lost_;
  }
}

void Score::wrote(uint64_t request, const decode::Piece& piece) {
  if (!watched() || piece.ids.empty()) return;
  const std::lock_guard lock(mutex_);
  auto it = std::ranges::find_if(now_.lanes, [&](const ScoreTick::Lane& lane) {
    return lane.request == request && lane.choice == piece.choice;
  });
  if (it == now_.lanes.end() && now_.lanes.size() == kMostLanes) return;
  if (it == now_.lanes.end()) it = now_.lanes.insert(it, {request, piece.choice, 0});
  it->tokens += int(piece.ids.size());
  has_now_ = true;
}

void Score::wrote(uint64_t request, const decode::CanvasStep& step) {
  if (!watched() || step.written.empty()) return;
  ScoreTick::Canvas canvas{request, step.choice, int(step.tokens.size()) - step.prompt, {}};
  for (const decode::CanvasStep::Written& w : step.written) {
    if (canvas.positions.size() == kMostPositions) break;
    canvas.positions.push_back(w.position - step.prompt);
  }
  const std::lock_guard lock(mutex_);
  now_.canvases.push_back(std::move(canvas));
  has_now_ = true;
}

void Score::ended(uint64_t request) {
  active_.erase(request);
  const std::lock_guard lock(mutex_);
  idle_ = active_.empty();
  if (!watched()) return;
  now_.ended.push_back(request);
  has_now_ = true;
}

void Score::watch(bool on) {
  watched_ = on;
  const std::lock_guard lock(mutex_);
  ticks_.clear();
  now_ = ScoreTick();
  has_now_ = false;
  lost_ = 0;
}

Score::Taken Score::take() {
  const std::lock_guard lock(mutex_);
  Taken taken;
  // An idle engine will not say that its last tick is over.
  if (idle_ && has_now_) {
    ticks_.push_back(std::move(now_));
    now_ = ScoreTick();
    has_now_ = false;
  }
  taken.ticks.assign(std::make_move_iterator(ticks_.begin()),
                     std::make_move_iterator(ticks_.end()));
  ticks_.clear();
  taken.lost = std::exchange(lost_, 0);
  return taken;
}

}  // namespace tutti::serve
