#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/system/system_error.hpp>
#include <chrono>
#include <climits>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/exception_text.h"

namespace tutti::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A second prompt joins a tick only with this many rows; fewer are not worth their overhead.
constexpr int kWorthwhileRows = 8;
// Rows of a prompt beside streams before any forward was measured.
constexpr int kFirstPromptRows = 32;

int page_count(const models::Model& model, const EngineOptions& options) {
  if (options.pages > 0) return options.pages;
  const size_t page_bytes = model.kv_layout(options.kv).page_bytes();
  size_t bytes = options.kv_bytes;
  if (bytes == 0) {
    bytes = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)) / 4 /
            size_t(std::max(1, options.sharers));
    const size_t context_pages =
        size_t(std::max(model.config().context_length, 1) + tensor::kPageSlots - 1) /
        tensor::kPageSlots;
    bytes = std::min(bytes, 64 * context_pages * page_bytes);
  }
  return int(std::clamp<size_t>(bytes / page_bytes, 1, 1 << 24));
}

// What programs are told whose queries waited for a tick that failed.
std::exception_ptr failed_forward(const std::exception_ptr& error) {
  return std::make_exception_ptr(
      Error(ErrorKind::kSystem, "engine: a forward failed (" + text_of(error) + ")"));
}

}  // namespace

Rows Rows::append(std::span<const int32_t> tokens, int position, std::optional<Want> want_last) {
  Rows rows;
  rows.splittable = true;
  rows.rows.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) rows.rows.emplace_back(tokens[i], position + int(i));
  if (!rows.rows.empty()) rows.rows.back().want = std::move(want_last);
  return rows;
}

Engine::Engine(std::shared_ptr<const models::Model> model, std::shared_ptr<ComputePool> pool,
               EngineOptions options, std::shared_ptr<CoreLease> lease)
    : model_(std::move(model)),
      pool_(std::move(pool)),
      options_(options),
      lease_(std::move(lease)),
      pages_(model_->kv_layout(options.kv), page_count(*model_, options)) {
  if (lease_) lease_member_ = lease_->join(options.lease_weight);
}

Engine::~Engine() {
  // Programs still waiting are destroyed with own_io_; their Contexts give pages back to a pool
  // that is still there.
  if (split_) split_->on_cores(split_member_, {});
  host_.reset();
  // A query owns what its program goes on with, and the program its query: neither would ever go.
  const auto leave = [](Engine& engine) {
    for (const QueryPtr& query : std::exchange(engine.pending_, {})) {
      const auto left = std::move(query->resume);
    }
    engine.networks_ = {};
  };
  // Programs that wait for a guest are this io's as well.
  for (const auto& guest : guests_) {
    guest->host_.reset();
    leave(*guest);
  }
  leave(*this);
}

std::shared_ptr<Request> Engine::new_request(double weight) {
  auto request = std::make_shared<Request>();
  request->id = next_request_++;
  request->weight = weight;
  return request;
}

void Engine::spawn(std::shared_ptr<Request> request, std::function<Task<void>()> program,
                   std::function<void(std::exception_ptr)> done) {
  ++programs_;
  auto slot = request->cancel.slot();
  asio::co_spawn(*io_, std::move(program),
                 asio::bind_cancellation_slot(
                     slot, [this, request, done = std::move(done)](std::exception_ptr e) {
                       --programs_;
                       done(e);
                     }));
}

void Engine::cancel(Request& request) {
  request.cancelled = true;
  request.cancel.emit(asio::cancellation_type::all);
  // Programs of it may have answers that they have not seen yet: their turns come before this.
  ++cancelling_;
  asio::post(*io_, [this] { --cancelling_; });
}

Task<Answer> Engine::forward(Context& context, Rows rows) {
  std::vector<Part> parts;
  parts.emplace_back(context, std::move(rows));
  std::vector<Answer> answers = co_await forward(std::move(parts));
  co_return std::move(answers.front());
}

Task<std::vector<Answer>> Engine::forward(std::vector<Part> parts) {
  auto query = std::make_shared<Query>();
  query->order = next_query_++;
  for (auto& part : parts) {
    Query::QueryPart p;
    p.context = part.context->shared_state();
    p.rows = std::move(part.rows);
    query->answers.emplace_back();
    query->answers.back().rows.resize(p.rows.rows.size());
    query->parts.push_back(std::move(p));
  }
  validate(*query);
  co_await answered(query);
  co_return std::move(query->answers);
}

Task<void> Engine::restore(Context& context) {
  if (context.state().resident == context.size()) co_return;
  auto query = std::make_shared<Query>();
  query->order = next_query_++;
  query->answers.emplace_back();
  query->parts.emplace_back();
  query->parts.back().context = context.shared_state();
  co_await answered(query);
}

// Puts the query down and waits until the engine has done it.
Task<void> Engine::answered(QueryPtr query) {
  query->request = query->parts.front().context->request;
  if (query->request->cancelled) {
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  // Not a coroutine of its own: g++ 12 destroys a closure twice that is a temporary of a co_await
  // expression.
  return asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
      [this, query](auto handler) {
        auto slot = asio::get_associated_cancellation_slot(handler);
        query->resume = std::move(handler);
        if (slot.is_connected()) {
          slot.assign([this, weak = std::weak_ptr<Query>(query)](asio::cancellation_type) {
            const auto query = weak.lock();
            if (!query || query->cancelled || query->finished) return;
            query->cancelled = true;
            query->error = std::make_exception_ptr(
                boost::system::system_error(asio::error::operation_aborted));
            std::erase(pending_, query);
            finish(query);
          });
        }
        Request& request = *query->request;
        // Who had nothing to compute saved up no turns meanwhile: it comes back level with the
        // least served.
        if (request.waiting++ == 0)
          request.virtual_time = std::max(request.virtual_time, virtual_now_);
        for (auto& part : query->parts) ++part.context->pending;
        pending_.push_back(query);
      },
      asio::use_awaitable);
}

void Engine::count_tokens(Request& request, uint64_t n) {
  request.statistics.tokens += n;
  statistics_.tokens += n;
}

int Engine::add_prefix(Context context) {
  if (context.state().resident != context.size()) {
    throw Error(ErrorKind::kUsage,
                "model prefix: its pages are not resident; query the Context first");
  }
  context.shared_state()->reproducible = false;  // never a victim
  prefixes_.push_back(context.shared_state());
  return int(prefixes_.size()) - 1;
}

void Engine::run() { loop(false); }
void Engine::serve() { loop(true); }

void Engine::stop() {
  asio::post(*io_, [this] { stop_ = true; });
}

void Engine::loop(bool wait_when_idle) {
  stop_ = false;
  // Also when a tick throws: the others on these cores would wait for a turn of the dead one.
  struct Sated {
    Engine& engine;
    ~Sated() {
      if (engine.lease_) engine.lease_->set_hungry(engine.lease_member_, false);
    }
  } sated{*this};
  while (!stop_) {
    run_programs();
    if (stop_) break;
    bool stepped = step();
    for (const auto& guest : guests_) {
      const bool asked = !guest->pending_.empty();
      try {
        stepped |= guest->step();
      } catch (...) {
        // Who asked was told. What a guest cannot do is no reason for its host to end.
        if (!asked) throw;
        stepped = true;
      }
    }
    if (stepped) continue;
    const auto busy = [](const Engine& e) { return e.works() || e.programs_ > 0; };
    if (!wait_when_idle && !any(busy)) break;
    if (lease_) lease_->set_hungry(lease_member_, false);
    const auto start = Clock::now();
    const auto guard = asio::make_work_guard(*io_);
    io_->restart();
    io_->run_one();
    statistics_.idle_seconds += seconds_since(start);
  }
}

// A tick and what is due of the networks' work; false: there is none, or no core for it. When it
// fails, the queries that wait end with its error, too: their programs would wait for ever.
bool Engine::step() {
  if (!works()) return false;
  try {
    if (!begin_cores()) return false;
    const bool streaming = !pending_.empty();
    if (streaming) tick();
    if (!networks_.empty()) network_slot(streaming);
  } catch (...) {
    if (split_) split_->end(split_member_);
    const std::exception_ptr error = failed_forward(std::current_exception());
    for (const QueryPtr& query : std::exchange(pending_, {})) {
      query->error = error;
      finish(query);
    }
    throw;
  }
  if (split_) split_->end(split_member_);
  return true;
}

// Whether it holds of this engine or of a guest.
template <class Condition>
bool Engine::any(const Condition& condition) const {
  return condition(*this) ||
         std::ranges::any_of(guests_, [&](const auto& guest) { return condition(*guest); });
}

void Engine::host(std::shared_ptr<Engine> guest) {
  guest->io_ = io_;
  // It computes in its host's turns: one of its own, never asked for while the host works, would
  // keep the others from theirs.
  if (lease_) {
    guest->lease_ = lease_;
    guest->lease_member_ = lease_member_;
  }
  guests_.push_back(std::move(guest));
}

void Engine::use_cores(std::shared_ptr<CoreSplit> split, int member) {
  if (split_) split_->on_cores(split_member_, {});
  split_ = std::move(split);
  split_member_ = member;
  // An engine without cores waits for anything to do, so anything wakes it.
  split_->on_cores(member, [this] { asio::post(*io_, [] {}); });
}

// Takes the cores for one tick; false: there are none now.
bool Engine::begin_cores() {
  if (!split_) return true;
  std::vector<int> cores = split_->begin(split_member_);
  if (cores.empty()) return false;
  const int threads = int(cores.size());
  pool_->resize(threads, std::move(cores));
  return true;
}

// Computes when it is this engine's turn on shared cores; returns the seconds, which are charged.
template <class Compute>
double Engine::on_lease(const Compute& compute) {
  if (lease_) {
    const auto wait_start = Clock::now();
    lease_->acquire(lease_member_);
    statistics_.lease_seconds += seconds_since(wait_start);
  }
  struct Release {
    Engine& engine;
    Clock::time_point start = Clock::now();
    ~Release() {
      if (engine.lease_) engine.lease_->release(engine.lease_member_, seconds_since(start));
    }
  } release{*this};
  compute();
  return seconds_since(release.start);
}

Task<void> Engine::after_others() {
  struct Delivering {
    int& count;
    explicit Delivering(int& c) : count(++c) {}
    ~Delivering() { --count; }
  } delivering(delivering_);
  co_await asio::post(*io_, asio::use_awaitable);
}

Task<void> Engine::run_job(NetworkQueue::JobPtr job) {
  if (job->request->cancelled) throw boost::system::system_error(asio::error::operation_aborted);
  return asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
      [this, job](auto handler) {
        auto slot = asio::get_associated_cancellation_slot(handler);
        job->resume = std::move(handler);
        if (slot.is_connected()) {
          slot.assign(
              [this, weak = std::weak_ptr<NetworkQueue::Job>(job)](asio::cancellation_type) {
                const auto job = weak.lock();
                if (!job || job->cancelled || !job->resume) return;
                networks_.cancel(job);
                job->error = std::make_exception_ptr(
                    boost::system::system_error(asio::error::operation_aborted));
                resume_job(job);
              });
        }
        networks_.submit(job);
      },
      asio::use_awaitable);
}

void Engine::resume_job(const NetworkQueue::JobPtr& job) {
  asio::post(*io_,
             [job, resume = std::move(job->resume)]() mutable { std::move(resume)(job->error); });
}

// `streaming`: this slot stands between two ticks.
void Engine::network_slot(bool streaming) {
  // Alone, a slot lasts as long as a tick beside streams may: newcomers wait no longer than that.
  const double seconds =
      streaming ? options_.network_slot_seconds : options_.streaming_tick_seconds;
  on_lease([&] {
    networks_.slot(*pool_, seconds, streaming, statistics_,
                   [this](const NetworkQueue::JobPtr& job) { resume_job(job); });
  });
}

void Engine::offload(std::function<void()> work) {
  if (!host_)
    host_ = std::make_unique<asio::thread_pool>(size_t(std::max(1, options_.host_threads)));
  asio::post(*host_, std::move(work));
}

void Engine::run_programs() {
  const auto start = Clock::now();
  io_->restart();
  const double forward =
      statistics_.ticks ? statistics_.forward_seconds / double(statistics_.ticks) : 0;
  // Who was answered by the last tick and misses the next one takes most of a forward of its own
  // soon, and from then on the streams compute in two halves: that costs more than waiting.
  const auto answered = [](const Engine& e) { return e.delivering_ > 0; };
  const auto limit = [&] {
    return std::max(options_.program_seconds, (any(answered) ? 0.25 : 0.02) * forward);
  };
  while (io_->poll_one() > 0) {
    // Who was cancelled runs at once: its pages are to be back by the next tick.
    const auto waits = [](const Engine& e) { return !e.pending_.empty(); };
    const auto cancels = [](const Engine& e) { return e.cancelling_ > 0; };
    if (any(waits) && !any(cancels) && seconds_since(start) > limit()) break;
  }
  statistics_.program_seconds += seconds_since(start);
}

std::vector<std::shared_ptr<ContextState>> Engine::live_contexts() {
  std::vector<std::shared_ptr<ContextState>> live;
  size_t kept = 0;
  for (auto& weak : contexts_) {
    auto state = weak.lock();
    if (!state) continue;
    contexts_[kept++] = weak;
    live.push_back(std::move(state));
  }
  contexts_.resize(kept);
  return live;
}

void Engine::register_context(const std::shared_ptr<ContextState>& state) {
  if (contexts_.size() >= sweep_at_) {
    live_contexts();
    sweep_at_ = std::max<size_t>(64, 2 * contexts_.size());
  }
  contexts_.push_back(state);
}

bool Engine::preempt(const std::function<bool(const ContextState&)>& eligible) {
  ContextState* victim = nullptr;
  const auto live = live_contexts();
  for (const auto& state : live) {
    if (state->resident == 0 || state->in_plan || state->delivered > 0 || !state->reproducible)
      continue;
    if (!eligible(*state)) continue;
    if (!victim || state->request->id > victim->request->id) victim = state.get();
  }
  if (!victim) return false;
  victim->drop_pages();
  ++statistics_.preemptions;
  ++victim->request->statistics.preemptions;
  return true;
}

// Frees at least one page for a request, if anything can go: cached pages first, then younger
// requests' pages, then idle Contexts, then other Contexts of the same request, but no `needed`
// one.
bool Engine::make_room(uint64_t request, const std::function<bool(const ContextState&)>& needed) {
  const int before = pages_.free();
  while (pages_.free() == before) {
    if (cache_.evict_one()) continue;
    if (preempt([&](const ContextState& c) { return c.request->id > request; })) continue;
    if (preempt([&](const ContextState& c) { return c.pending == 0 && c.request->id != request; }))
      continue;
    if (preempt([&](const ContextState& c) { return c.request->id == request && !needed(c); }))
      continue;
    return false;
  }
  return true;
}

PageRef Engine::take_page(const Request& request) {
  for (;;) {
    if (const PageId page = pages_.allocate(); page >= 0) return PageRef::adopt(pages_, page);
    if (!make_room(request.id, [](const ContextState& c) { return c.pending > 0; })) {
      throw Error(ErrorKind::kLimit, "KV pages: all " + std::to_string(pages_.total()) +
                                         " pages of 32 slots are in use; raise the KV budget");
    }
  }
}

void Engine::take_cached(Query::QueryPart& part, Query& query) {
  ContextState& c = *part.context;
  if (!options_.prefix_cache || !c.reproducible || !c.area.empty() ||
      !ordinary(part.rows.classes) || !c.weighed.empty()) {
    return;
  }
  // Whole pages only, while everything so far stands on page borders as plain causal tokens.
  const auto aligned = [&] {
    if (c.resident % tensor::kPageSlots != 0) return false;
    for (const auto& span : c.spans) {
      if (span.first != 0 || span.count != tensor::kPageSlots) return false;
    }
    return true;
  };
  if (!aligned()) return;
  ChainHash hash = PrefixCache::root(model_->version(), options_.kv, c.salt);
  for (int page = 0; page < c.resident / tensor::kPageSlots; ++page) {
    const std::span<const SlotRecipe> slots(c.recipe.data() + page * tensor::kPageSlots,
                                            tensor::kPageSlots);
    for (const auto& slot : slots) {
      if (slot.special) return;
    }
    hash = PrefixCache::extend(hash, slots);
  }
  const bool rebuilding = c.resident < c.size();
  std::vector<SlotRecipe> page(tensor::kPageSlots);
  for (;;) {
    // The next 32 slots: from the recipe when rebuilding, else from the query's rows. The last row
    // is computed.
    const int left =
        rebuilding ? c.size() - c.resident : int(part.rows.rows.size()) - part.done - 1;
    if (left < tensor::kPageSlots) break;
    bool plain = true;
    for (int i = 0; i < tensor::kPageSlots; ++i) {
      if (rebuilding) {
        page[size_t(i)] = c.recipe[size_t(c.resident + i)];
        plain = plain && !page[size_t(i)].special;
      } else {
        const Row& row = part.rows.rows[size_t(part.done + i)];
        plain = plain && row.in.kind == RowInput::kToken && !row.want;
        page[size_t(i)] = {row.in.token, row.position, row.segment_id, nullptr};
      }
    }
    if (!plain) break;
    auto found = cache_.find(hash, page);
    if (!found) break;
    hash = PrefixCache::extend(hash, page);
    c.spans.push_back({std::move(*found), 0, uint8_t(tensor::kPageSlots)});
    c.resident += tensor::kPageSlots;
    c.published = c.resident / tensor::kPageSlots;
    c.tail_owned = false;
    statistics_.cached_rows += tensor::kPageSlots;
    query.request->statistics.cached_rows += tensor::kPageSlots;
    if (!rebuilding) {
      for (auto& slot : page) {
        if (!c.recipe.empty() && slot.position.t <= c.recipe.back().position.t) c.monotonic = false;
        c.recipe.push_back(slot);
      }
      part.done += tensor::kPageSlots;
      query.request->statistics.cached_tokens += tensor::kPageSlots;
    }
  }
}

void Engine::publish(ContextState& c) {
  // What saw slots that are gone or were replaced looks like any other token, but is not what the
  // tokens say; and a file's word is not taken for what other requests read. The pages of an area
  // are its owner's to write over.
  if (!options_.prefix_cache || !c.reproducible || c.loaded || !c.area.empty() ||
      c.resident < tensor::kPageSlots)
    return;
  // What comes behind weighed slots saw them otherwise than the tokens say.
  const int last = c.weighed.empty() ? c.resident : std::min(c.resident, c.weighed.front().first);
  const int pages = last / tensor::kPageSlots;
  if (c.published >= pages) return;
  ChainHash hash = PrefixCache::root(model_->version(), options_.kv, c.salt);
  for (int page = 0; page < pages && size_t(page) < c.spans.size(); ++page) {
    const PageSpan& span = c.spans[size_t(page)];
    if (span.first != 0 || span.count != tensor::kPageSlots) return;
    const std::span<const SlotRecipe> slots(c.recipe.data() + page * tensor::kPageSlots,
                                            tensor::kPageSlots);
    for (const auto& slot : slots) {
      if (slot.special) return;
    }
    if (page >= c.published) cache_.publish(hash, slots, span.page);
    hash = PrefixCache::extend(hash, slots);
  }
  c.published = pages;
}

// How many slots to recompute next: `budget`, and what it takes to end where no row sees a slot
// that is still to come.
int Engine::rebuild_rows(const ContextState& c, int budget) {
  int end = std::min(c.size(), c.resident + budget);
  for (int x = c.resident; c.looks_ahead && x < end; ++x) {
    const auto& special = c.recipe[size_t(x)].special;
    if (!special || special->causal) continue;
    for (const auto& run : special->seen) end = std::max(end, run.first + run.count);
  }
  return end - c.resident;
}

Engine::Placed Engine::place(Query& query, Plan& plan, int budget) {
  const auto room = [&] {
    return make_room(query.request->id, [&](const ContextState& c) {
      return std::any_of(query.parts.begin(), query.parts.end(),
                         [&](const auto& p) { return p.context.get() == &c; });
    });
  };
  // Contexts whose pages were taken away come back first; the query itself waits for a later tick.
  bool rebuilding = false;
  for (auto& part : query.parts) {
    ContextState& c = *part.context;
    if (c.resident < c.size() && !c.in_plan) take_cached(part, query);
    if (c.resident == c.size()) continue;
    rebuilding = true;
    if (c.in_plan || budget <= 0) continue;
    const int count = rebuild_rows(c, budget);
    while (!plan.add_rebuild(c, count)) {
      if (!room()) return Placed::kNo;
    }
    statistics_.rebuilt_rows += uint64_t(count);
    query.request->statistics.rebuilt_rows += uint64_t(count);
    return query.restores() && c.resident == c.size() ? Placed::kWhole : Placed::kPart;
  }
  if (rebuilding) return Placed::kPart;
  if (query.restores()) return Placed::kWhole;

  for (auto& part : query.parts) {
    if (part.context->in_plan) return Placed::kNo;  // another query of the same Context goes first
  }
  auto& first = query.parts.front();
  if (first.rows.splittable) {
    take_cached(first, query);
    const int left = int(first.rows.rows.size()) - first.done;
    const int count = left <= 1 ? left : std::min(left, budget);
    if (count <= 0) return Placed::kNo;
    while (!plan.add(*first.context, first.rows, first.done, count)) {
      if (!room()) return Placed::kNo;
    }
    return count == left ? Placed::kWhole : Placed::kPart;
  }
  // Atomic: all parts or none. Units placed here are undone together when one does not fit.
  for (size_t p = 0; p < query.parts.size(); ++p) {
    auto& part = query.parts[p];
    while (!plan.add(*part.context, part.rows, 0, int(part.rows.rows.size()))) {
      if (room()) continue;
      plan.remove_last(int(p));
      return Placed::kNo;
    }
  }
  return Placed::kWhole;
}

void Engine::refuse(const QueryPtr& query, const std::string& why) {
  query->error = std::make_exception_ptr(
      Error(ErrorKind::kLimit, "KV pages: " + why + " (" + std::to_string(pages_.free()) + " of " +
                                   std::to_string(pages_.total()) +
                                   " pages of 32 slots are free); raise the KV budget " +
                                   "or shorten the request"));
  std::erase(pending_, query);
  finish(query);
}

// The last of `queries`, by age, whose request is younger than the first's and holds pages that
// cannot be recomputed.
Engine::QueryPtr Engine::unmovable(const std::vector<QueryPtr>& queries) {
  const auto live = live_contexts();
  for (auto it = queries.rbegin();
       it != queries.rend() && (*it)->request != queries.front()->request; ++it) {
    for (const auto& state : live) {
      if (state->request == (*it)->request && state->resident > 0 && !state->reproducible)
        return *it;
    }
  }
  return nullptr;
}

void Engine::tick() {
  const auto start = Clock::now();
  Plan plan(model_->config(), pages_, prefixes_);

  // Age decides who gets pages; the oldest goes first of all, so that it always progresses.
  std::vector<QueryPtr> queries(pending_.begin(), pending_.end());
  std::stable_sort(queries.begin(), queries.end(), [](const QueryPtr& a, const QueryPtr& b) {
    return std::pair(a->request->id, a->order) < std::pair(b->request->id, b->order);
  });
  // What takes turns by virtual time, so many rows a tick: what may go in pieces over several ticks
  // (appends of more than a stream's one token, and Contexts that must come back first), and the
  // texts that an encoder reads, each whole.
  const bool reads_only = model_->config().is_encoder();
  const auto takes_turns = [reads_only](const Query& q) {
    if (reads_only) return true;
    const auto& first = q.parts.front();
    if (first.rows.splittable && int(first.rows.rows.size()) - first.done > 1) return true;
    return std::any_of(q.parts.begin(), q.parts.end(),
                       [](const auto& p) { return p.context->resident < p.context->size(); });
  };
  std::vector<QueryPtr> prompts;
  TickLoad load;  // what the tick holds once all undivided queries are in, then prompts on top
  for (const auto& query : queries) {
    if (takes_turns(*query)) {
      prompts.push_back(query);
      continue;
    }
    for (const auto& part : query->parts) {
      load = load.with(int(part.rows.rows.size()) - part.done, part.context->size());
    }
  }
  const bool streaming = load.rows > 0;
  std::stable_sort(prompts.begin(), prompts.end(), [](const QueryPtr& a, const QueryPtr& b) {
    return a->request->virtual_time < b->request->virtual_time;
  });
  if (!prompts.empty())
    virtual_now_ = std::max(virtual_now_, prompts.front()->request->virtual_time);

  std::vector<QueryPtr> planned;  // parallel to plan.units(), one entry per unit
  std::vector<QueryPtr> whole;
  const auto put = [&](const QueryPtr& query, int budget) {
    const size_t before = plan.units().size();
    const Placed placed = place(*query, plan, budget);
    for (size_t i = before; i < plan.units().size(); ++i) planned.push_back(query);
    if (placed == Placed::kWhole) whole.push_back(query);
  };
  // Many or deep streams may take all of a tick's time themselves: prompts then add a quarter of
  // it.
  const double tick_seconds =
      std::max(options_.streaming_tick_seconds,
               cost_.predict(load.rows, load.mean_keys()) + options_.streaming_tick_seconds / 4);
  int prompt_rows = 0;
  const auto put_prompt = [&](const QueryPtr& query, int most) {
    const int room = options_.max_prompt_rows - prompt_rows;
    const double depth = query->parts.front().context->resident;
    int budget = room;
    if (streaming) {
      budget = cost_.rows_within(tick_seconds, load, depth, room, kFirstPromptRows);
    }
    // The first prompt of a tick always advances.
    if (prompt_rows == 0) budget = std::max(budget, 1);
    if (prompt_rows > 0 && budget < kWorthwhileRows) return;
    const int before = plan.rows();
    put(query, std::min(budget, most));
    const int rows = plan.rows() - before;
    load = load.with(rows, depth);
    prompt_rows += rows;
  };

  const QueryPtr oldest = queries.front();
  if (!takes_turns(*oldest)) {
    put(oldest, 0);
  } else if (oldest != prompts.front()) {
    // Not its turn, but it never stands still.
    std::erase(prompts, oldest);
    put_prompt(oldest, kWorthwhileRows);
  } else {
    prompts.erase(prompts.begin());
    put_prompt(oldest, INT_MAX);
  }
  if (plan.empty() && whole.empty() && delivering_ == 0) {
    // Age decides: who is youngest of those whose pages cannot come back makes room for the oldest,
    // with an error.
    if (const QueryPtr youngest = unmovable(queries)) {
      refuse(youngest,
             "its keys and values cannot be recomputed and an older request needs their pages");
      std::erase(queries, youngest);
      std::erase(prompts, youngest);
    }
  }
  for (const auto& query : queries) {
    if (query != oldest && !takes_turns(*query)) put(query, 0);
  }
  for (const auto& query : prompts) put_prompt(query, INT_MAX);

  const auto finish_whole = [&] {
    std::stable_sort(whole.begin(), whole.end(), [](const QueryPtr& a, const QueryPtr& b) {
      return std::pair(a->request->id, a->order) < std::pair(b->request->id, b->order);
    });
    for (const auto& query : whole) {
      std::erase(pending_, query);
      finish(query);
    }
  };
  if (plan.empty()) {
    if (!whole.empty()) return finish_whole();  // the cache held all that they wanted
    if (delivering_ > 0) return;  // programs that have not seen their answers yet hold the pages
    // Nothing fits, not even the oldest with everything else out of the way.
    refuse(oldest, "a query needs more than there are");
    return;
  }

  plan.build();
  statistics_.plan_seconds += seconds_since(start);
  const double seconds = on_lease([&] { answer_rows(planned, plan); });

  const double mean_keys = plan.mean_keys();
  cost_.record(plan.rows(), mean_keys, seconds);
  ++statistics_.ticks;
  statistics_.rows += uint64_t(plan.rows());
  statistics_.prompt_rows += uint64_t(prompt_rows);
  statistics_.head_rows += plan.batch().head_rows.size();
  statistics_.forward_seconds += seconds;

  const auto deliver_start = Clock::now();
  plan.commit();
  std::vector<Request*> served;
  for (size_t u = 0; u < planned.size(); ++u) {
    const PlannedRows& unit = plan.units()[u];
    Query& query = *planned[u];
    Request& request = *query.request;
    request.virtual_time += unit.count / request.weight;
    request.statistics.rows += uint64_t(unit.count);
    request.statistics.forward_seconds += seconds * unit.count / plan.rows();
    served.push_back(&request);
    if (unit.rows) {
      for (auto& part : query.parts) {
        if (part.context.get() == unit.context) part.done += unit.count;
      }
    }
    publish(*unit.context);
  }
  std::sort(served.begin(), served.end());
  served.erase(std::unique(served.begin(), served.end()), served.end());
  for (Request* request : served) ++request->statistics.forwards;
  finish_whole();
  statistics_.plan_seconds += seconds_since(deliver_start);
  if (listener_) {
    listener_({statistics_.ticks, plan.rows(), int(served.size()), int(pending_.size()), seconds});
  }
}

void Engine::finish(const QueryPtr& query) {
  query->finished = true;
  for (auto& part : query->parts) {
    --part.context->pending;
    ++part.context->delivered;
  }
  --query->request->waiting;
  ++delivering_;
  cancelling_ += query->cancelled;
  // Posted, not called: programs run between ticks, in the order of delivery.
  asio::post(*io_, [this, query, resume = std::move(query->resume)]() mutable {
    if (resume) std::move(resume)(query->error);
    for (auto& part : query->parts) --part.context->delivered;
    --delivering_;
    cancelling_ -= query->cancelled;
  });
}

}  // namespace tutti::engine
