// The heart: one model, one core set, one thread, one page pool. Programs put queries down; once per tick the
// scheduler takes what all of them have put down and runs one forward.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "base/pool.h"
#include "engine/context.h"
#include "engine/cost_table.h"
#include "engine/lease.h"
#include "engine/pages.h"
#include "engine/plan.h"
#include "engine/prefix_cache.h"
#include "engine/request.h"
#include "engine/rows.h"
#include "engine/statistics.h"
#include "engine/task.h"
#include "models/model.h"

namespace tutti::engine {

struct EngineOptions {
  tensor::KvType kv = tensor::KvType::kF16;
  int pages = 0;              // of 32 slots; 0: as many as `kv_bytes` holds
  size_t kv_bytes = 0;        // 0: a quarter of the machine's memory, at most what 64 full contexts need
  bool prefix_cache = true;
  int max_prompt_rows = 512;              // of one tick
  double streaming_tick_seconds = 0.040;  // a tick's time while somebody waits for tokens
  double lease_weight = 1.0;
};

// One part of a query: rows against one Context.
struct Part {
  Context* context = nullptr;
  Rows rows;
  Part(Context& c, Rows r) : context(&c), rows(std::move(r)) {}
};

// What a tick did, for traces and live views.
struct TickReport {
  uint64_t tick = 0;
  int rows = 0;
  int requests = 0;
  int waiting = 0;  // queries left for later ticks
  double forward_seconds = 0;
};

class Engine {
 public:
  // `lease`, when given, is shared with the other engines on the same cores.
  Engine(std::shared_ptr<const models::Model> model, std::shared_ptr<ComputePool> pool, EngineOptions options = {},
         std::shared_ptr<CoreLease> lease = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const models::Model& model() const { return *model_; }
  PagePool& pages() { return pages_; }
  const PagePool& pages() const { return pages_; }
  PrefixCache& prefix_cache() { return cache_; }
  const CostTable& cost() const { return cost_; }
  const EngineStatistics& statistics() const { return statistics_; }
  const EngineOptions& options() const { return options_; }
  asio::io_context& io() { return io_; }

  // A new request; the next in age.
  std::shared_ptr<Request> new_request(double weight = 1.0);
  // Starts a program. `done` is called on the engine's thread with its exception, or null. From another thread,
  // post to io().
  void spawn(std::shared_ptr<Request> request, std::function<Task<void>()> program,
             std::function<void(std::exception_ptr)> done);
  // Cancels a request's program: its wait ends with operation_aborted, its pages return within one tick.
  void cancel(Request& request);

  // Runs ticks until no program is left (or stop() is called).
  void run();
  // As run(), but an idle engine waits for work posted to io() until stop().
  void serve();
  void stop();

  // Puts a query down and waits for its answer. Throws what the planner found wrong with it: Error(kUsage) for
  // rows that make no sense, Error(kLimit) when it can never fit.
  Task<Answer> forward(Context& context, Rows rows);
  // Several parts, answered in one tick.
  Task<std::vector<Answer>> forward(std::vector<Part> parts);

  // Makes a Context's slots visible to views that name the returned prefix number; it is never preempted.
  int add_prefix(Context context);

  // `n` tokens of `request` were generated (for statistics; the engine cannot know which picks are kept).
  void count_tokens(Request& request, uint64_t n);

  void on_tick(std::function<void(const TickReport&)> listener) { listener_ = std::move(listener); }

  void register_context(const std::shared_ptr<ContextState>& state) { contexts_.push_back(state); }

 private:
  struct Query {
    uint64_t order = 0;
    std::shared_ptr<Request> request;
    struct QueryPart {
      std::shared_ptr<ContextState> context;
      Rows rows;
      int done = 0;  // rows computed in earlier ticks (splittable)
    };
    std::vector<QueryPart> parts;
    std::vector<Answer> answers;
    std::exception_ptr error;
    bool cancelled = false;
    asio::any_completion_handler<void(std::exception_ptr)> resume;
  };
  using QueryPtr = std::shared_ptr<Query>;

  void validate(const Query& query) const;
  void loop(bool wait_when_idle);
  void run_programs();
  void tick();
  // Places a query's rows, or a rebuild of its Contexts, in the plan. `budget` rows at most for what can be split.
  enum class Placed { kWhole, kPart, kNo };
  Placed place(Query& query, Plan& plan, int budget);
  bool make_room(const Query& query, Plan& plan);
  bool preempt(const std::function<bool(const ContextState&)>& eligible);
  void take_cached(Query::QueryPart& part, Query& query);
  void publish(ContextState& context);
  void answer_rows(const std::vector<QueryPtr>& planned, Plan& plan);
  void finish(const QueryPtr& query);
  std::vector<std::shared_ptr<ContextState>> live_contexts();

  std::shared_ptr<const models::Model> model_;
  std::shared_ptr<ComputePool> pool_;
  EngineOptions options_;
  std::shared_ptr<CoreLease> lease_;
  int lease_member_ = -1;
  PagePool pages_;
  PrefixCache cache_;
  CostTable cost_;
  EngineStatistics statistics_;
  models::RowWorkspace workspace_;
  std::vector<Sampler> samplers_;  // one per worker: they hold scratch memory
  std::vector<std::weak_ptr<ContextState>> contexts_;
  std::vector<std::shared_ptr<ContextState>> prefixes_;
  std::deque<QueryPtr> pending_;
  std::function<void(const TickReport&)> listener_;
  uint64_t next_request_ = 1;
  uint64_t next_query_ = 1;
  double virtual_now_ = 0;  // virtual time of the least served prompt of the last tick that had one
  int programs_ = 0;
  bool stop_ = false;
  asio::io_context io_{1};
};

}  // namespace tutti::engine
