#include "serve/score_feed.h"

#include <nlohmann/json.hpp>

#include "formats/json_text.h"
#include "serve/api_error.h"
#include "serve/score.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const ScoreTick& tick) {
  Json parts = Json::array(), lanes = Json::array(), canvases = Json::array();
  for (const ScoreTick::Part& p : tick.parts) parts.push_back(Json::array({p.request, p.rows}));
  for (const ScoreTick::Lane& l : tick.lanes)
    lanes.push_back(Json::array({l.request, l.choice, l.tokens}));
  for (const ScoreTick::Canvas& c : tick.canvases)
    canvases.push_back(Json::array({c.request, c.choice, c.length, c.positions}));
  return {{"tick", tick.report.tick},        {"ms", 1e3 * tick.report.forward_seconds},
          {"rows", tick.report.rows},        {"waiting", tick.report.waiting},
          {"parts", std::move(parts)},       {"lanes", std::move(lanes)},
          {"canvases", std::move(canvases)}, {"ended", tick.ended}};
}

}  // namespace

ScoreFeed::ScoreFeed(boost::asio::io_context& net, std::vector<ServedModel*> models)
    : models_(std::move(models)), timer_(net) {}

void ScoreFeed::add(const std::shared_ptr<HttpExchange>& watcher) {
  if (watchers_.size() >= kMostWatchers) {
    ApiError error(
        503, "overloaded",
        std::to_string(kMostWatchers) + " pages watch this server already; close one of them");
    error.retry_after = 5;
    throw error;
  }
  watcher->on_gone([this, weak = std::weak_ptr<HttpExchange>(watcher)] {
    std::erase(watchers_, weak.lock());
    if (watchers_.empty()) set_watched(false);
  });
  watcher->begin_stream({});
  watchers_.push_back(watcher);
  if (watchers_.size() > 1) return;
  set_watched(true);
  silent_ = 1000;  // the first round says how things stand
  arm();
}

void ScoreFeed::close() {
  for (const auto& watcher : watchers_) watcher->end();
  watchers_.clear();
  set_watched(false);
  timer_.cancel();
}

void ScoreFeed::set_watched(bool on) {
  for (ServedModel* model : models_) model->worker->score().watch(on);
}

void ScoreFeed::arm() {
  timer_.expires_after(std::chrono::milliseconds(int(1e3 * kSecondsBetween)));
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || watchers_.empty()) return;
    send();
    arm();
  });
}

void ScoreFeed::send() {
  ++silent_;
  for (ServedModel* model : models_) {
    const Score::Taken taken = model->worker->score().take();
    // Once a second at least: numbers fall back to nothing, too.
    if (taken.ticks.empty() && silent_ * kSecondsBetween < 1) continue;
    Json event{{"model", model->name},
               {"seconds",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count()},
               {"running", model->worker->running()},
               {"waiting", model->worker->queued()}};
    Json ticks = Json::array();
    for (const ScoreTick& tick : taken.ticks) ticks.push_back(json_of(tick));
    if (!taken.ticks.empty() && taken.ticks.back().pages > 0) {
      event["pages"] = taken.ticks.back().pages;
      event["free_pages"] = taken.ticks.back().free_pages;
    }
    event["lost"] = taken.lost;
    event["ticks"] = std::move(ticks);
    const std::string line = "data: " + formats::print_json(event) + "\n\n";
    silent_ = 0;
    // One that does not read is dropped by write(), through on_gone: not while we go through them.
    const auto watchers = watchers_;
    for (const auto& watcher : watchers) watcher->write(line);
  }
}

}  // namespace tutti::serve
