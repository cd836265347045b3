#include "cli/roofs.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
namespace tutti::cli {

Spread spread_of(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples.front(), samples.back()};
}

ReadLoop::ReadLoop(size_t bytes) : buffer_(bytes / 64 * 64 + 64) {}

double ReadLoop::pass(ComputePool& pool) {
  using Clock = std::chrono::steady_clock;
  std::vector<uint64_t> sums(size_t(pool.threads()) * 8);
  const auto start = Clock::now();
  pool.run([&](Worker& worker) {
    const size_t words = buffer_.size() / 8;
    const size_t first = words * size_t(worker.index()) / size_t(worker.count()) / 8 * 8;
    const size_t last = words * size_t(worker.index() + 1) / size_t(worker.count()) / 8 * 8;
    const auto* data = reinterpret_cast<const uint64_t*>(buffer_.data());
    uint64_t a[8] = {};
    for (size_t i = first; i < last; i += 8) {
      for (size_t j = 0; j < 8; ++j) a[j] += data[i + j];
    }
    for (size_t j = 0; j < 8; ++j) sums[size_t(worker.index()) * 8 + j] += a[j];
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return double(buffer_.size()) / seconds + double(sums[0] & 1) * 1e-9;
}

double read_bandwidth(ComputePool& pool, size_t bytes) {
  using Clock = std::chrono::steady_clock;
  ReadLoop loop(bytes);
  std::vector<double> samples;
  // At least five times, and long enough for clocks to rise and sleeping workers to be up.
  const auto begin = Clock::now();
  while (samples.size() < 5 || Clock::now() - begin < std::chrono::milliseconds(100)) {
    samples.push_back(loop.pass(pool));
  }
  return spread_of(samples).high;
}

double compute_peak(ComputePool& pool, tensor::Peak peak) {
  using Clock = std::chrono::steady_clock;
  const tensor::Isa isa = tensor::kernels().isa;
  std::vector<uint64_t> done(size_t(pool.threads()) * 8);  // a cache line each
  double best = 0;
  int rounds = 64;
  for (int repeat = 0; repeat < 5;) {
    const auto start = Clock::now();
    pool.run([&](Worker& worker) {
      done[size_t(worker.index()) * 8] = tensor::run_peak(isa, peak, rounds);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds < 0.02) {  // too short to measure
      rounds *= 2;
      continue;
    }
    double sum = 0;
    for (size_t i = 0; i < done.size(); i += 8) sum += double(done[i]);
    best = std::max(best, sum / seconds);
    ++repeat;
  }
  return best;
}

}  // namespace tutti::cli
