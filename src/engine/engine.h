// The heart: one model, one core set, one thread, one page pool. Programs put queries down; once
// per tick the scheduler takes what all of them have put down and runs one forward.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "base/pool.h"
#include "engine/context.h"
#include "engine/cores.h"
#include "engine/cost_table.h"
#include "engine/lease.h"
#include "engine/network.h"
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
  int pages = 0;        // of 32 slots; 0: as many as `kv_bytes` holds
  size_t kv_bytes = 0;  // 0: a quarter of the machine's memory, at most what 64 full contexts need
  int sharers = 1;      // engines between which that quarter is divided
  bool prefix_cache = true;
  int max_prompt_rows = 512;              // of one tick
  double streaming_tick_seconds = 0.040;  // a tick's time while somebody waits for tokens
  double network_slot_seconds =
      0.010;  // of Network jobs between two ticks while somebody waits for tokens
  double program_seconds =
      200e-6;  // longest that programs run between two ticks while queries wait
  double lease_weight = 1.0;
  int host_threads = 1;  // for offload()
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
  Engine(std::shared_ptr<const models::Model> model, std::shared_ptr<ComputePool> pool,
         EngineOptions options = {}, std::shared_ptr<CoreLease> lease = {});
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
  asio::io_context& io() { return *io_; }

  // From now on computes with the cores that `split` gives to `member`; the engine's pool must be
  // its own. Not while run() or serve() is active.
  void use_cores(std::shared_ptr<CoreSplit> split, int member);

  // From now on the programs of `guest` run on this engine's thread and its ticks between this
  // one's: two engines that wait for each other lose no time to threads that wake. The guest is run
  // by this engine alone, and lives as long as it; a pool may be shared. Neither may be running.
  void host(std::shared_ptr<Engine> guest);

  // What the programs of this engine keep between requests: one T, made when it is first asked for.
  // On the engine's thread.
  template <class T>
  T& kept() {
    std::shared_ptr<void>& value = kept_[std::type_index(typeid(T))];
    if (!value) value = std::make_shared<T>();
    return *static_cast<T*>(value.get());
  }

  // A new request; the next in age.
  std::shared_ptr<Request> new_request(double weight = 1.0);
  // Starts a program. `done` is called on the engine's thread with its exception, or null. From
  // another thread, post to io().
  void spawn(std::shared_ptr<Request> request, std::function<Task<void>()> program,
             std::function<void(std::exception_ptr)> done);
  // Cancels a request's program: its wait ends with operation_aborted, its pages return within one
  // tick.
  void cancel(Request& request);

  // Runs ticks until no program is left (or stop() is called).
  void run();
  // As run(), but an idle engine waits for work posted to io() until stop().
  void serve();
  void stop();

  // Puts a query down and waits for its answer. Throws what the planner found wrong with it:
  // Error(kUsage) for rows that make no sense, Error(kLimit) when it can never fit.
  Task<Answer> forward(Context& context, Rows rows);
  // Several parts, answered in one tick.
  Task<std::vector<Answer>> forward(std::vector<Part> parts);

  // Resumes once the other programs that the last tick answered have run up to their next wait:
  // what they wish for in the next tick is known then. That tick waits for the caller as for them.
  Task<void> after_others();

  // Recomputes the pages that were taken away from a Context, if any. They stay until the program
  // waits again.
  Task<void> restore(Context& context);
  // Puts `input` through a network between ticks, batched with other jobs that wait for it. Throws
  // what the network throws: for this input only, as a failing batch is tried again job by job.
  template <class SomeNetwork>
  Task<typename SomeNetwork::Output> run(std::shared_ptr<SomeNetwork> network,
                                         std::shared_ptr<Request> request,
                                         typename SomeNetwork::Input input) {
    network->check(input);
    auto job = std::make_shared<NetworkQueue::Job>();
    auto output = std::make_shared<typename SomeNetwork::Output>();
    job->network = std::move(network);
    job->request = std::move(request);
    job->input = std::make_shared<const typename SomeNetwork::Input>(std::move(input));
    job->output = output;
    co_await run_job(std::move(job));
    co_return std::move(*output);
  }

  // Runs `work` on a host thread; see crossing.h, which brings its result back.
  void offload(std::function<void()> work);

  // While it lives, a program that another engine started here keeps run() going. Made on this
  // engine's thread.
  class Visit {
   public:
    explicit Visit(Engine& engine) : engine_(engine) { ++engine_.programs_; }
    ~Visit() { --engine_.programs_; }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    Engine& engine_;
  };

  // Makes a Context's slots visible to views that name the returned prefix number; it is never
  // preempted.
  int add_prefix(Context context);

  // `n` tokens of `request` were generated (for statistics; the engine cannot know which picks are
  // kept).
  void count_tokens(Request& request, uint64_t n);

  void on_tick(std::function<void(const TickReport&)> listener) { listener_ = std::move(listener); }

  // A page for `request`, taken from the cache, younger requests or idle Contexts when none is
  // free. Throws Error(kLimit).
  PageRef take_page(const Request& request);

  void register_context(const std::shared_ptr<ContextState>& state);

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
    bool finished = false;  // its program is about to be resumed
    asio::any_completion_handler<void(std::exception_ptr)> resume;

    // Wants the Context's pages and nothing else.
    bool restores() const { return parts.front().rows.rows.empty(); }
  };
  using QueryPtr = std::shared_ptr<Query>;

  void validate(const Query& query) const;
  Task<void> answered(QueryPtr query);
  Task<void> run_job(NetworkQueue::JobPtr job);
  void resume_job(const NetworkQueue::JobPtr& job);
  void network_slot(bool streaming);
  bool begin_cores();
  bool works() const { return !pending_.empty() || !networks_.empty(); }
  bool step();
  template <class Condition>
  bool any(const Condition& condition) const;
  template <class Compute>
  double on_lease(const Compute& compute);
  void loop(bool wait_when_idle);
  void run_programs();
  void tick();
  // Places a query's rows, or a rebuild of its Contexts, in the plan. `budget` rows at most for
  // what can be split.
  enum class Placed { kWhole, kPart, kNo };
  Placed place(Query& query, Plan& plan, int budget);
  bool make_room(uint64_t request, const std::function<bool(const ContextState&)>& needed);
  bool preempt(const std::function<bool(const ContextState&)>& eligible);
  static int rebuild_rows(const ContextState& context, int budget);
  void take_cached(Query::QueryPart& part, Query& query);
  void publish(ContextState& context);
  void answer_rows(const std::vector<QueryPtr>& planned, Plan& plan);
  void finish(const QueryPtr& query);
  void refuse(const QueryPtr& query, const std::string& why);
  QueryPtr unmovable(const std::vector<QueryPtr>& queries);
  std::vector<std::shared_ptr<ContextState>> live_contexts();

  std::shared_ptr<const models::Model> model_;
  std::shared_ptr<ComputePool> pool_;
  EngineOptions options_;
  std::shared_ptr<CoreLease> lease_;
  int lease_member_ = -1;
  std::shared_ptr<CoreSplit> split_;
  int split_member_ = -1;
  PagePool pages_;
  PrefixCache cache_;
  CostTable cost_;
  EngineStatistics statistics_;
  models::RowWorkspace workspace_;
  std::vector<Sampler> samplers_;  // one per worker: they hold scratch memory
  std::vector<std::weak_ptr<ContextState>> contexts_;
  size_t sweep_at_ = 64;  // entries of contexts_ at which the dead ones are swept out
  std::vector<std::shared_ptr<ContextState>> prefixes_;
  std::deque<QueryPtr> pending_;
  int delivering_ = 0;  // programs that were answered, or wait in after_others(), and have not run
  int cancelling_ = 0;  // of those, cancelled ones
  NetworkQueue networks_;
  std::function<void(const TickReport&)> listener_;
  uint64_t next_request_ = 1;
  uint64_t next_query_ = 1;
  double virtual_now_ = 0;  // virtual time of the least served prompt of the last tick that had one
  int programs_ = 0;
  bool stop_ = false;
  std::unordered_map<std::type_index, std::shared_ptr<void>> kept_;
  std::vector<std::shared_ptr<Engine>> guests_;  // before own_io_: its programs hold their pages
  asio::io_context own_io_{1};
  asio::io_context* io_ = &own_io_;          // the host's, of a guest
  std::unique_ptr<asio::thread_pool> host_;  // made when first used; joined before io_ goes
};

}  // namespace tutti::engine
