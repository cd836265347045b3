// Schedulers over lanes: the contiguous layout, static batches, and instances that take turns.
#include <algorithm>
#include <chrono>
#include <list>
#include <utility>

#include "base/error.h"
#include "eval/traffic/compaction.h"
#include "eval/traffic/schedulers.h"

namespace tutti::eval {

// The engine may hold on to a Context until the iteration that it was part of is over: its pages go
// now.
void LaneScheduler::vacate(Lane& lane) {
  if (lane.context) lane.context.release();
  lane = Lane();
}

void LaneScheduler::admit_next(Lane& lane) {
  vacate(lane);
  lane.id = ledger_.next();
  lane.live = true;
  lane.turn = turns_++;
  lane.context = engine::Context(engine_, request_);
  ledger_.admit(lane.id);
}

Task<void> LaneScheduler::run() {
  for (;;) {
    ledger_.advance(places());
    for (const int id : ledger_.gone()) {
      Lane& lane = lane_of(id);
      ledger_.cancel(id);
      lane.live = false;
      ended(lane);
    }
    admit();
    if (ledger_.all_ended()) break;
    const std::vector<Lane*> lanes = batch();
    if (lanes.empty()) {
      co_await ledger_.idle(opens());
      continue;
    }

    // Prompts share the iteration's budget of rows, first come first served.
    std::vector<Lane*> prompts;
    const auto prompt_left = [&](const Lane& lane) {
      return lane.live ? int(ledger_.request(lane.id).prompt.size()) - lane.prompt_done : 0;
    };
    for (Lane* lane : lanes) {
      if (prompt_left(*lane) > 0) prompts.push_back(lane);
    }
    std::sort(prompts.begin(), prompts.end(),
              [](const Lane* a, const Lane* b) { return a->turn < b->turn; });
    std::vector<std::pair<Lane*, int>> chunks;
    int budget = ledger_.options().prompt_rows;
    for (Lane* lane : prompts) {
      const int count = std::min(budget, prompt_left(*lane));
      budget -= count;
      chunks.emplace_back(lane, count);
    }

    std::vector<engine::Part> parts;
    std::vector<Lane*> picking;  // per part: whose next token it gives, or null
    int row_count = 0, dead_rows = 0;
    for (Lane* lane : lanes) {
      engine::Rows rows;
      const int position = lane->context.next_position();
      bool picks = false;
      if (prompt_left(*lane) > 0) {
        const auto chunk = std::find_if(chunks.begin(), chunks.end(),
                                        [&](const auto& c) { return c.first == lane; });
        const auto& prompt = ledger_.request(lane->id).prompt;
        for (int i = 0; i < chunk->second; ++i) {
          rows.rows.emplace_back(prompt[size_t(lane->prompt_done + i)], position + i);
        }
        lane->prompt_done += chunk->second;
        picks = prompt_left(*lane) == 0;
        if (rows.rows.empty()) continue;
      } else {
        rows.rows.emplace_back(ledger_.last_token(lane->id), position);
        picks = lane->live;
      }
      if (picks) {
        rows.rows.back().want = ledger_.want(lane->id);
      } else if (!lane->live) {
        // A dead lane is computed like any other, logits included, and leaves nothing behind.
        rows.rows.back().write = engine::Write::none();
        rows.rows.back().want.emplace();
        rows.rows.back().want->at = {0};
        ++dead_rows;
      }
      row_count += int(rows.rows.size());
      parts.emplace_back(lane->context, std::move(rows));
      picking.push_back(picks ? lane : nullptr);
    }
    const double before = ledger_.now();
    const std::vector<engine::Answer> answers = co_await engine_.forward(std::move(parts));
    ledger_.tick(row_count, dead_rows);
    computed(row_count, ledger_.now() - before);
    for (size_t p = 0; p < picking.size(); ++p) {
      Lane* lane = picking[p];
      if (!lane || ledger_.deliver(lane->id, answers[p].rows.back().picked)) continue;
      lane->live = false;
      ended(*lane);
    }
  }
}

namespace {

// The slope of seconds over rows, by least squares over what was measured.
class RowCost {
 public:
  void add(double rows, double seconds) {
    ++n_;
    rows_ += rows;
    seconds_ += seconds;
    squares_ += rows * rows;
    products_ += rows * seconds;
  }
  // Seconds that one more row costs; by the mean when all forwards had equally many.
  double per_row() const {
    const double spread = n_ * squares_ - rows_ * rows_;
    const double slope = spread > 0 ? (n_ * products_ - rows_ * seconds_) / spread : 0;
    if (slope > 0) return slope;
    return rows_ > 0 ? seconds_ / rows_ : 0;
  }

 private:
  double n_ = 0, rows_ = 0, seconds_ = 0, squares_ = 0, products_ = 0;
};

// Slots with an area of pages each, set aside at the beginning; the whole window is computed.
class Contiguous : public LaneScheduler {
 public:
  Contiguous(Ledger& ledger, int slot_tokens)
      : LaneScheduler(ledger),
        window_(ledger.options().concurrency),
        lanes_(size_t(window_.slots())) {
    const int slots = window_.slots();
    const int pages = (slot_tokens + tensor::kPageSlots - 1) / tensor::kPageSlots;
    engine::PagePool& pool = engine_.pages();
    const int64_t needed = int64_t(slots) * pages + scratch_pages(slots);
    if (needed > pool.free()) {
      throw Error(ErrorKind::kLimit,
                  "contiguous layout: " + std::to_string(slots) + " slots of " +
                      std::to_string(slot_tokens) + " tokens take " + std::to_string(needed) +
                      " pages of 32 slots, " + std::to_string(pool.free()) +
                      " are free; raise --kv-pages, or lower --concurrency or --slot-tokens");
    }
    // All that are free, so that the areas lie side by side in memory.
    std::vector<engine::PageRef> free;
    while (pool.free() > 0) free.push_back(engine::PageRef::adopt(pool, pool.allocate()));
    std::sort(free.begin(), free.end(),
              [](const auto& a, const auto& b) { return a.id() < b.id(); });
    auto page = free.begin();
    for (int s = 0; s < slots; ++s, page += pages) areas_.emplace_back(page, page + pages);
    measure_copies();
  }

 protected:
  int places() const override { return window_.slots() - window_.live_count(); }

  void admit() override {
    close_holes();
    while (ledger_.next() >= 0) {
      const int slot = window_.take();
      if (slot < 0) break;
      Lane& lane = lanes_[size_t(slot)];
      admit_next(lane);
      lane.context.settle(areas_[size_t(slot)]);
    }
  }

  std::vector<Lane*> batch() override {
    std::vector<Lane*> batch;
    for (int s = window_.first(); s < window_.first() + window_.size(); ++s)
      batch.push_back(&lanes_[size_t(s)]);
    return batch;
  }

  Lane& lane_of(int id) override {
    return *std::find_if(lanes_.begin(), lanes_.end(),
                         [id](const Lane& lane) { return lane.live && lane.id == id; });
  }

  void ended(Lane& lane) override { window_.release(int(&lane - lanes_.data())); }

  void computed(int rows, double seconds) override { row_cost_.add(rows, seconds); }

 private:
  uint64_t bytes_of(const Lane& lane) const {
    return uint64_t(lane.context.state().spans.size()) * engine_.pages().layout().page_bytes();
  }

  void close_holes() {
    if (window_.holes() == 0 || ledger_.options().shuffle == Shuffle::kOff) return;
    std::vector<uint64_t> bytes(lanes_.size(), 0), remaining(lanes_.size(), 0);
    for (size_t s = 0; s < lanes_.size(); ++s) {
      if (!window_.live(int(s))) continue;
      bytes[s] = bytes_of(lanes_[s]);
      const int done = int(ledger_.result().requests[size_t(lanes_[s].id)].tokens.size());
      remaining[s] = uint64_t(ledger_.request(lanes_[s].id).output_tokens - done);
    }
    const Compaction plan = plan_compaction(window_.live(), bytes);
    if (ledger_.options().shuffle == Shuffle::kAuto) {
      const double holes = double(rows_of_holes(window_.live(), remaining)) * seconds_per_row();
      if (double(plan.weight) * seconds_per_byte_ >= holes) return;
    }
    uint64_t moved = 0;
    for (const Move& move : plan.moves) {
      Lane& to = lanes_[size_t(move.to)];
      Lane& from = lanes_[size_t(move.from)];
      vacate(to);
      moved += from.context.settle(areas_[size_t(move.to)]);
      to = std::move(from);
      from = Lane();
    }
    window_.apply(plan);
    ledger_.moved(moved);
  }

  double seconds_per_row() const {
    const double given = ledger_.options().seconds_per_row;
    return given > 0 ? given : row_cost_.per_row();
  }

  // Seconds that a byte costs to copy, on areas that hold nothing yet.
  void measure_copies() {
    const TrafficOptions& options = ledger_.options();
    seconds_per_byte_ = options.seconds_per_byte;
    if (options.seconds_per_byte > 0 || options.tick_seconds > 0 || areas_.size() < 2) return;
    engine::PagePool& pool = engine_.pages();
    using Clock = std::chrono::steady_clock;
    double best = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto start = Clock::now();
      for (size_t p = 0; p < areas_[0].size(); ++p)
        pool.copy_page(areas_[0][p].id(), areas_[1][p].id());
      best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    seconds_per_byte_ = best / double(areas_[0].size() * pool.layout().page_bytes());
  }

  SlotWindow window_;
  std::vector<std::vector<engine::PageRef>>
      areas_;  // of slots; declared before the lanes, which refer to them
  std::vector<Lane> lanes_;
  RowCost row_cost_;
  double seconds_per_byte_ = 0;
};

// Collects requests for a time, then runs them to the end of the longest; who has ended keeps its
// lane until then.
class DynamicBatch : public LaneScheduler {
 public:
  explicit DynamicBatch(Ledger& ledger) : LaneScheduler(ledger) {}

 protected:
  int places() const override { return live_ == 0 ? ledger_.options().concurrency : 0; }

  double opens() const override {
    if (ledger_.waiting() == 0) return std::numeric_limits<double>::infinity();
    return ledger_.oldest() + ledger_.options().window_seconds;
  }

  void admit() override {
    if (live_ > 0) return;
    lanes_.clear();
    const int most = ledger_.options().concurrency;
    if (ledger_.waiting() == 0 || (ledger_.waiting() < most && ledger_.now() < opens())) return;
    // A batch is never interrupted: what all of it may need must be there.
    int pages = engine_.pages().total() - scratch_pages(most);
    lanes_.reserve(size_t(most));
    while (int(lanes_.size()) < most && ledger_.next() >= 0 &&
           ledger_.pages_of(ledger_.next()) <= pages) {
      pages -= ledger_.pages_of(ledger_.next());
      admit_next(lanes_.emplace_back());
      ++live_;
    }
  }

  std::vector<Lane*> batch() override {
    std::vector<Lane*> batch;
    for (Lane& lane : lanes_) batch.push_back(&lane);
    return batch;
  }

  Lane& lane_of(int id) override {
    return *std::find_if(lanes_.begin(), lanes_.end(),
                         [id](const Lane& lane) { return lane.id == id; });
  }

  void ended(Lane&) override { --live_; }

 private:
  std::vector<Lane> lanes_;
  int live_ = 0;
};

// Each request alone, all threads of the engine on one of them at a time, in turns.
class Instances : public LaneScheduler {
 public:
  explicit Instances(Ledger& ledger) : LaneScheduler(ledger) {}

 protected:
  int places() const override { return ledger_.options().concurrency - ledger_.in_flight(); }

  void admit() override {
    // Whoever had the last turn goes to the end.
    if (ran_) lanes_.splice(lanes_.end(), lanes_, lanes_.begin());
    ran_ = false;
    lanes_.remove_if([](const Lane& lane) { return !lane.live; });
    while (places() > 0 && ledger_.next() >= 0) admit_next(lanes_.emplace_back());
  }

  std::vector<Lane*> batch() override {
    if (lanes_.empty()) return {};
    ran_ = true;
    return {&lanes_.front()};
  }

  Lane& lane_of(int id) override {
    return *std::find_if(lanes_.begin(), lanes_.end(),
                         [id](const Lane& lane) { return lane.id == id; });
  }

 private:
  std::list<Lane> lanes_;
  bool ran_ = false;
};

}  // namespace

std::unique_ptr<LaneScheduler> contiguous_scheduler(Ledger& ledger, int slot_tokens) {
  return std::make_unique<Contiguous>(ledger, slot_tokens);
}
std::unique_ptr<LaneScheduler> dynamic_batch_scheduler(Ledger& ledger) {
  return std::make_unique<DynamicBatch>(ledger);
}
std::unique_ptr<LaneScheduler> instances_scheduler(Ledger& ledger) {
  return std::make_unique<Instances>(ledger);
}

}  // namespace tutti::eval
