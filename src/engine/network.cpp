#include "engine/network.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "base/error.h"

namespace tutti::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void NetworkQueue::cancel(const JobPtr& job) {
  job->cancelled = true;
  std::erase(waiting_, job);
}

NetworkQueue::Cost& NetworkQueue::cost_of(const std::shared_ptr<AnyNetwork>& network) {
  // Networks that are gone leave no entries behind (nor their cost to another at the same address).
  std::erase_if(costs_, [](const auto& entry) { return entry.second.network.expired(); });
  Cost& cost = costs_[network.get()];
  cost.network = network;
  return cost;
}

void NetworkQueue::start_batches(double seconds, bool streaming,
                                 const std::function<void(const JobPtr&)>& finish) {
  std::deque<JobPtr> left;
  std::list<Running> fresh;
  for (auto& job : waiting_) {
    AnyNetwork* network = job->network.get();
    const auto serves = [&](const Running& r) { return r.network == network; };
    auto batch = std::find_if(fresh.begin(), fresh.end(), serves);
    if (batch == fresh.end()) {
      if (std::any_of(running_.begin(), running_.end(), serves)) {
        left.push_back(job);
        continue;
      }
      batch = fresh.emplace(fresh.end());
      batch->network = network;
    }
    int most = std::max(1, network->max_batch());
    if (streaming) {
      const double each = cost_of(job->network).seconds_per_job;
      most = each > 0 ? std::clamp(int(seconds / each), 1, most)
                      : 1;  // the first tells what a job costs
    }
    const bool fits = batch->jobs.empty() || (int(batch->jobs.size()) < most && !job->alone &&
                                              !batch->jobs.front()->alone);
    if (fits) {
      batch->jobs.push_back(job);
    } else {
      left.push_back(job);
    }
  }
  waiting_ = std::move(left);
  for (auto& running : fresh) {
    std::vector<AnyNetwork::AnyJob> jobs;
    for (const auto& job : running.jobs) jobs.push_back({job->input.get(), job->output.get()});
    try {
      running.batch = running.network->begin_any(jobs);
      if (!running.batch) throw Error(ErrorKind::kUsage, "network: began no batch");
    } catch (...) {
      fail(running, std::current_exception(), finish);
      continue;
    }
    running_.push_back(std::move(running));
  }
}

void NetworkQueue::fail(Running& running, const std::exception_ptr& error,
                        const std::function<void(const JobPtr&)>& finish) {
  // One bad job must not cost the others theirs: each tries again on its own.
  if (running.jobs.size() > 1) {
    for (auto job = running.jobs.rbegin(); job != running.jobs.rend(); ++job) {
      (*job)->alone = true;
      if (!(*job)->cancelled) waiting_.push_front(*job);
    }
    return;
  }
  const JobPtr& job = running.jobs.front();
  job->error = error;
  if (!job->cancelled) finish(job);
}

void NetworkQueue::slot(ComputePool& pool, double seconds, bool streaming,
                        EngineStatistics& statistics,
                        const std::function<void(const JobPtr&)>& finish) {
  const auto start = Clock::now();
  auto now = start;
  bool first = true;
  for (;;) {
    start_batches(seconds, streaming, finish);
    std::erase_if(running_, [](const Running& r) {
      return std::all_of(r.jobs.begin(), r.jobs.end(),
                         [](const JobPtr& job) { return job->cancelled; });
    });
    if (running_.empty()) break;
    Running& running = running_.front();
    Cost& cost = cost_of(running.jobs.front()->network);
    const int count = int(running.jobs.size());
    if (!first && seconds_between(start, now) + cost.seconds_per_job * count > seconds) break;
    first = false;
    const int step = running.step;
    std::exception_ptr error;
    int steps = 0;
    try {
      steps = running.batch->steps();
      if (step < steps) pool.run([&](Worker& worker) { running.batch->run(worker, step); });
    } catch (...) {
      error = std::current_exception();
    }
    const auto end = Clock::now();
    const double took = seconds_between(now, end);
    now = end;
    statistics.network_seconds += took;
    for (const auto& job : running.jobs) job->request->statistics.network_seconds += took / count;
    // The longest step counts at once; when steps get shorter, the memory of it fades.
    const double each = took / count;
    cost.seconds_per_job = std::max(each, cost.seconds_per_job + (each - cost.seconds_per_job) / 8);
    if (error) {
      fail(running, error, finish);
      running_.pop_front();
      continue;
    }
    if (++running.step >= steps) {
      ++statistics.network_calls;
      running.batch.reset();  // it may hold views of the outputs
      for (const auto& job : running.jobs) {
        if (job->cancelled) continue;
        ++statistics.network_jobs;
        ++job->request->statistics.network_jobs;
        finish(job);
      }
      running_.pop_front();
      continue;
    }
    running_.splice(running_.end(), running_, running_.begin());
  }
}

}  // namespace tutti::engine
