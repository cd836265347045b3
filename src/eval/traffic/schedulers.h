// The schedulers of a trace as programs of an engine: each runs a Ledger's requests to their end.
#pragma once

#include <functional>
#include <memory>

#include "eval/traffic/ledger.h"

namespace tutti::eval {

// Fused and paged: a program per request, started when it is admitted; the engine's scheduler does
// the rest.
class EnginePrograms {
 public:
  explicit EnginePrograms(Ledger& ledger);
  ~EnginePrograms();
  EnginePrograms(const EnginePrograms&) = delete;
  EnginePrograms& operator=(const EnginePrograms&) = delete;

  // Admits and cancels between ticks until every request has ended. Throws what a program threw,
  // unless that was an Error, which refuses its request.
  Task<void> door();

 private:
  void start(int id);
  Task<void> generate(int id);
  void wake();

  Ledger& ledger_;
  engine::Engine& engine_;
  std::vector<std::shared_ptr<engine::Request>> requests_;  // of requests in flight
  std::exception_ptr failure_;
  bool woken_ = false;
};

// A scheduler that itself decides which rows make the next forward: one program with one query an
// iteration.
class LaneScheduler {
 public:
  virtual ~LaneScheduler() = default;
  Task<void> run();

 protected:
  // What computes one request: its Context, and how far it is.
  struct Lane {
    int id = -1;        // of the request; -1: none
    bool live = false;  // the request has not ended
    int prompt_done = 0;
    uint64_t turn = 0;  // ascends with admission
    engine::Context context;

    Lane() = default;
  };

  explicit LaneScheduler(Ledger& ledger)
      : ledger_(ledger), engine_(ledger.engine()), request_(engine_.new_request()) {}

  // Requests that could be admitted now.
  virtual int places() const = 0;
  // Takes requests that wait into lanes, as many as may.
  virtual void admit() = 0;
  // Those that the next iteration computes, in order.
  virtual std::vector<Lane*> batch() = 0;
  // When admit() has something to do though nobody arrives.
  virtual double opens() const { return std::numeric_limits<double>::infinity(); }
  virtual Lane& lane_of(int id) = 0;
  virtual void ended(Lane&) {}
  virtual void computed(int /*rows*/, double /*seconds*/) {}

  // Empties a lane, whose pages are free at once.
  static void vacate(Lane& lane);
  // The ledger's next request, admitted into `lane`.
  void admit_next(Lane& lane);

  Ledger& ledger_;
  engine::Engine& engine_;
  std::shared_ptr<engine::Request> request_;

 private:
  uint64_t turns_ = 0;
};

// Throw Error(kLimit) when the pool cannot hold what they hold from the beginning.
std::unique_ptr<LaneScheduler> contiguous_scheduler(Ledger& ledger, int slot_tokens);
std::unique_ptr<LaneScheduler> dynamic_batch_scheduler(Ledger& ledger);
std::unique_ptr<LaneScheduler> instances_scheduler(Ledger& ledger);

// Pages that rows which are written nowhere take, at most `rows` at a time.
inline int scratch_pages(int rows) { return (rows + tensor::kPageSlots - 1) / tensor::kPageSlots; }

}  // namespace tutti::eval
