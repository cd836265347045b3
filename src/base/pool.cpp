#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <xmmintrin.h>

#include <chrono>
#include <string>

#include "base/error.h"

namespace tutti {
namespace {

// Flush-to-zero off, denormals-are-zero off, round to nearest: what every kernel assumes.
void set_float_environment() { _mm_setcsr(0x1f80); }

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(size_t(core), &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set),
                         &set);  // best effort: a container may forbid it
}

// Waits until `value` differs from `old`: spins for 50 us, then sleeps in the kernel.
uint32_t wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  uint32_t now = value.load(std::memory_order_acquire);
  if (now != old) return now;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
  do {
    for (int i = 0; i < 64; ++i) {
      now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  while ((now = value.load(std::memory_order_acquire)) == old) value.wait(old);
  return now;
}

void check_size(int threads, const std::vector<int>& cores) {
  if (threads < 1 || threads > 1024) {
    throw Error(ErrorKind::kUsage, "threads: " + std::to_string(threads) + " is not in 1..1024");
  }
  if (!cores.empty() && int(cores.size()) != threads) {
    throw Error(ErrorKind::kUsage, "threads: " + std::to_string(threads) + " workers but " +
                                       std::to_string(cores.size()) + " cores named");
  }
  for (const int core : cores) {
    if (core < 0 || core >= CPU_SETSIZE) {
      throw Error(ErrorKind::kUsage, "threads: there is no core " + std::to_string(core));
    }
  }
}

}  // namespace

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const int count = CPU_COUNT(&set);
  return count > 0 ? count : 1;
}

void Worker::barrier() { pool_.arrive_and_wait(); }

ComputePool::ComputePool(int threads, std::vector<int> cores) { start(threads, std::move(cores)); }

ComputePool::~ComputePool() { stop(); }

void ComputePool::resize(int threads, std::vector<int> cores) {
  if (threads == this->threads() && cores == cores_) return;
  check_size(threads, cores);
  stop();
  start(threads, std::move(cores));
}

void ComputePool::start(int threads, std::vector<int> cores) {
  check_size(threads, cores);
  cores_ = std::move(cores);
  errors_.resize(size_t(threads));
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  for (int i = 1; i < threads; ++i)
    threads_.emplace_back([this, i, generation] { serve(i, generation); });
}

void ComputePool::stop() {
  stop_.store(true);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
  stop_.store(false);
}

void ComputePool::run(const std::function<void(Worker&)>& job) {
  const unsigned saved_mxcsr = _mm_getcsr();
  set_float_environment();
  // The caller's own mask comes back afterwards: threads that it starts must not inherit one core.
  cpu_set_t saved_cores;
  const bool pinned =
      !cores_.empty() && sched_getaffinity(0, sizeof(saved_cores), &saved_cores) == 0;
  if (pinned) pin(cores_.front());
  job_ = &job;
  const uint32_t helpers = uint32_t(threads_.size());
  running_.store(helpers, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  if (helpers) generation_.notify_all();
  Worker self(*this, 0, threads());
  try {
    job(self);
  } catch (...) {
    errors_[0] = std::current_exception();
  }
  for (uint32_t left; (left = running_.load(std::memory_order_acquire)) != 0;) {
    wait_for_change(running_, left);
  }
  if (pinned) sched_setaffinity(0, sizeof(saved_cores), &saved_cores);
  _mm_setcsr(saved_mxcsr);
  job_ = nullptr;
  std::exception_ptr first;
  for (auto& error : errors_) {
    if (error && !first) first = error;
    error = nullptr;
  }
  if (first) std::rethrow_exception(first);
}

void ComputePool::serve(int index, uint32_t generation) {
  if (!cores_.empty()) pin(cores_[size_t(index)]);
  set_float_environment();
  for (uint32_t seen = generation;;) {
    seen = wait_for_change(generation_, seen);
    if (stop_.load()) return;
    Worker self(*this, index, threads());
    try {
      (*job_)(self);
    } catch (...) {
      errors_[size_t(index)] = std::current_exception();
    }
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ComputePool::arrive_and_wait() {
  const uint32_t count = uint32_t(threads());
  if (count == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_for_change(phase_, phase);
  }
}

}  // namespace tutti
