// The compute pool: SPMD workers over a fixed set of cores. The caller is worker 0, so a forward
// that fits one core never leaves it. Workers spin for at most 50 us between jobs and at barriers,
// then sleep.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace tutti {

class ComputePool;

// One worker's view of a running job.
class Worker {
 public:
  int index() const { return index_; }
  int count() const { return count_; }
  // Waits until every worker of the job has arrived.
  void barrier();

  // This worker's contiguous share [first, last) of n items; shares differ by at most one item.
  struct Share {
    int first, last;
  };
  Share share(int n) const {
    return {int(int64_t(n) * index_ / count_), int(int64_t(n) * (index_ + 1) / count_)};
  }

 private:
  friend class ComputePool;
  Worker(ComputePool& pool, int index, int count) : pool_(pool), index_(index), count_(count) {}
  ComputePool& pool_;
  int index_;
  int count_;
};

// Number of cores this process may use (its affinity mask, not the machine's size).
int available_cores();

class ComputePool {
 public:
  // `threads` >= 1 workers including the caller. `cores`, when not empty, names the core of each
  // worker (worker 0, the calling thread, is pinned while it runs a job). Throws Error(kUsage).
  explicit ComputePool(int threads, std::vector<int> cores = {});
  ~ComputePool();
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  int threads() const { return int(threads_.size()) + 1; }
  // Changes the number of workers and their cores, as in the constructor. Not while a job runs;
  // costs about as much as starting the threads.
  void resize(int threads, std::vector<int> cores = {});

  // Runs `job` on every worker and returns when all are done. An exception of any worker is
  // rethrown here (the first by worker index); a job that throws between barriers must throw on all
  // workers alike. Not reentrant, and called by one thread at a time.
  void run(const std::function<void(Worker&)>& job);

 private:
  friend class Worker;
  void serve(int index, uint32_t generation);
  void start(int threads, std::vector<int> cores);
  void stop();
  void arrive_and_wait();

  std::vector<std::thread> threads_;
  std::vector<int> cores_;
  std::vector<std::exception_ptr> errors_;
  const std::function<void(Worker&)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};  // bumped once per job; workers wait for it
  alignas(64) std::atomic<uint32_t> running_{0};     // workers that have not finished the job
  alignas(64) std::atomic<uint32_t> arrived_{0};     // barrier: workers that have arrived
  alignas(64) std::atomic<uint32_t> phase_{0};       // barrier: completed rounds
  std::atomic<bool> stop_{false};
};

}  // namespace tutti
