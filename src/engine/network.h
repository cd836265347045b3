// Networks without a Context — vision towers, encoders, vocoders — that an engine runs between its
// ticks: jobs of several requests that wait for the same network go through it together, a little
// at a time while others stream.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <boost/asio/any_completion_handler.hpp>

#include "base/pool.h"
#include "engine/request.h"
#include "engine/statistics.h"
#include "engine/task.h"

namespace tutti::engine {

// One pass of a network over some jobs: its buffers between steps, and the steps. A step is what
// the engine does not interrupt (a layer, say): short steps keep other requests' streams going.
class NetworkBatch {
 public:
  virtual ~NetworkBatch() = default;
  virtual int steps() const = 0;
  // Step `step` of 0 … steps() - 1, in order; every worker of the pool calls it, with the pool's
  // barriers. The number of workers may differ between steps. After the last step all outputs are
  // there. A step that throws between barriers must throw on all workers alike.
  virtual void run(Worker& worker, int step) = 0;
};

// What the engine sees of a network.
class AnyNetwork {
 public:
  virtual ~AnyNetwork() = default;
  // The most jobs of one batch, >= 1.
  virtual int max_batch() const = 0;

 protected:
  struct AnyJob {
    const void* input;
    void* output;
  };

 private:
  friend class NetworkQueue;
  virtual std::unique_ptr<NetworkBatch> begin_any(std::span<const AnyJob> jobs) = 0;
};

// Batching must not be seen in the results: a job's output bits may not depend on the other jobs of
// its batch. One network may serve several engines at once, so what changes belongs into the
// NetworkBatch.
template <class In, class Out>
class Network : public AnyNetwork {
 public:
  using Input = In;
  using Output = Out;
  struct Job {
    const In* input;
    Out* output;  // default-constructed
  };
  // Throws Error(kUsage | kLimit) for an input that cannot be computed; the job's own caller gets
  // it.
  virtual void check(const In& input) const = 0;
  // A batch of 1 … max_batch() checked jobs. Inputs and outputs live as long as the batch.
  virtual std::unique_ptr<NetworkBatch> begin(std::vector<Job> jobs) = 0;

 private:
  std::unique_ptr<NetworkBatch> begin_any(std::span<const AnyJob> jobs) final {
    std::vector<Job> typed;
    for (const auto& job : jobs)
      typed.push_back({static_cast<const In*>(job.input), static_cast<Out*>(job.output)});
    return begin(std::move(typed));
  }
};

// The engine's waiting and running jobs. All calls happen on the engine's thread.
class NetworkQueue {
 public:
  // Owns input and output: a caller may leave while its batch runs.
  struct Job {
    std::shared_ptr<AnyNetwork> network;
    std::shared_ptr<Request> request;
    std::shared_ptr<const void> input;
    std::shared_ptr<void> output;
    bool alone = false;      // its batch failed: it may not take others along again
    bool cancelled = false;  // its caller has gone; memory stays until its batch ends
    std::exception_ptr error;
    asio::any_completion_handler<void(std::exception_ptr)> resume;
  };
  using JobPtr = std::shared_ptr<Job>;

  void submit(JobPtr job) { waiting_.push_back(std::move(job)); }
  // Forgets a job; the caller is resumed by whoever cancels.
  void cancel(const JobPtr& job);
  bool empty() const { return waiting_.empty() && running_.empty(); }
  int waiting() const { return int(waiting_.size()); }

  // Runs steps on the pool for about `seconds`, one at least, in turns over the networks, and calls
  // `finish` for every job that ended. While `streaming`, batches are no larger than what makes a
  // step fit.
  void slot(ComputePool& pool, double seconds, bool streaming, EngineStatistics& statistics,
            const std::function<void(const JobPtr&)>& finish);

 private:
  struct Running {
    AnyNetwork* network;
    std::vector<JobPtr> jobs;
    std::unique_ptr<NetworkBatch> batch;
    int step = 0;
  };
  // The measured time of a network's steps.
  struct Cost {
    std::weak_ptr<AnyNetwork> network;
    double seconds_per_job = 0;  // of the longest step, per job of the batch; 0: not measured
  };
  void start_batches(double seconds, bool streaming,
                     const std::function<void(const JobPtr&)>& finish);
  void fail(Running& running, const std::exception_ptr& error,
            const std::function<void(const JobPtr&)>& finish);
  Cost& cost_of(const std::shared_ptr<AnyNetwork>& network);

  std::deque<JobPtr> waiting_;
  std::list<Running> running_;  // at most one batch per network; the front's turn is next
  std::map<AnyNetwork*, Cost> costs_;
};

}  // namespace tutti::engine
