#include "base/pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <xmmintrin.h>

#include <chrono>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"

namespace tutti {
namespace {

TEST(Pool, RefusesNonsense) {
  EXPECT_THROW(ComputePool(0), Error);
  EXPECT_THROW(ComputePool(-1), Error);
  EXPECT_THROW(ComputePool(2000), Error);
  EXPECT_THROW(ComputePool(2, {0}), Error);
  EXPECT_GE(available_cores(), 1);
}

TEST(Pool, SharesCoverTheRangeOnce) {
  for (int threads : {1, 2, 3, 5}) {
    ComputePool pool(threads);
    for (int n : {0, 1, 2, 7, 100, 1 << 30}) {
      std::vector<Worker::Share> shares(static_cast<size_t>(threads));
      pool.run([&](Worker& w) { shares[size_t(w.index())] = w.share(n); });
      int next = 0, shortest = n, longest = 0;
      for (const auto& s : shares) {
        EXPECT_EQ(s.first, next);
        next = s.last;
        shortest = std::min(shortest, s.last - s.first);
        longest = std::max(longest, s.last - s.first);
      }
      EXPECT_EQ(next, n);
      EXPECT_LE(longest - shortest, 1);
    }
  }
}

TEST(Pool, RunsEveryWorkerOncePerJob) {
  for (int threads : {1, 2, 4}) {
    ComputePool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::vector<int> ran(static_cast<size_t>(threads));
    for (int job = 0; job < 2000; ++job) {
      pool.run([&](Worker& w) {
        EXPECT_EQ(w.count(), threads);
        ++ran[size_t(w.index())];  // each worker its own element; run() orders jobs
      });
    }
    for (int r : ran) EXPECT_EQ(r, 2000);
  }
}

// A prefix sum in log steps: wrong as soon as one barrier lets somebody through early.
TEST(Pool, BarriersSeparatePhases) {
  for (int threads : {1, 2, 3, 4}) {
    ComputePool pool(threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      const int n = 1000;
      std::vector<long> a(n), b(n);
      std::iota(a.begin(), a.end(), repeat);
      std::vector<long> expected(n);
      std::partial_sum(a.begin(), a.end(), expected.begin());
      pool.run([&](Worker& w) {
        auto *from = &a, *to = &b;
        for (int step = 1; step < n; step *= 2) {
          const auto share = w.share(n);
          for (int i = share.first; i < share.last; ++i) {
            (*to)[size_t(i)] = (*from)[size_t(i)] + (i >= step ? (*from)[size_t(i - step)] : 0);
          }
          w.barrier();
          std::swap(from, to);
        }
        if (w.index() == 0 && from == &b) a = b;
      });
      ASSERT_EQ(a, expected);
    }
  }
}

TEST(Pool, RethrowsTheFirstWorkersExceptionAndGoesOn) {
  ComputePool pool(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      pool.run([](Worker& w) { throw std::runtime_error(std::to_string(w.index())); });
      FAIL();
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "0");
    }
    EXPECT_THROW(pool.run([](Worker& w) {
      if (w.index() == 2) throw std::logic_error("only one");
    }),
                 std::logic_error);
    std::atomic<int> sum{0};
    pool.run([&](Worker& w) {
      w.barrier();
      sum += w.index();
    });
    EXPECT_EQ(sum, 3);
  }
}

TEST(Pool, WorkersWakeAfterSleeping) {
  ComputePool pool(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // far beyond the spin
    std::atomic<int> ran{0};
    pool.run([&](Worker& w) {
      ++ran;
      if (w.index() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      w.barrier();  // the other sleeps here
      ++ran;
    });
    EXPECT_EQ(ran, 4);
  }
}

TEST(Pool, KernelsRunInTheStandardFloatEnvironment) {
  ComputePool pool(2);
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero: as a library might leave it
  std::vector<float> results(2);
  volatile float smallest = 0x1p-149f;
  pool.run([&](Worker& w) { results[size_t(w.index())] = smallest * 1.0f; });
  EXPECT_EQ(_mm_getcsr() & 0x8040u, 0x8040u);  // the caller's own setting comes back
  _mm_setcsr(before);
  EXPECT_EQ(results[0], 0x1p-149f);
  EXPECT_EQ(results[1], 0x1p-149f);
}

TEST(Pool, NamedCoresAreAccepted) {
  ComputePool pool(1, {0});
  int ran = 0;
  pool.run([&](Worker&) { ++ran; });
  EXPECT_EQ(ran, 1);
}

TEST(Pool, ResizesBetweenJobs) {
  ComputePool pool(1);
  for (const int threads : {3, 1, 2, 2, 5, 1}) {
    pool.resize(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (int job = 0; job < 20; ++job) {
      std::vector<int> ran(static_cast<size_t>(threads));
      pool.run([&](Worker& w) {
        ++ran[size_t(w.index())];
        w.barrier();
        EXPECT_EQ(w.count(), threads);
      });
      EXPECT_EQ(ran, std::vector<int>(static_cast<size_t>(threads), 1));
    }
  }
  EXPECT_THROW(pool.resize(0), Error);
  EXPECT_THROW(pool.resize(2, {0}), Error);
  EXPECT_THROW(pool.resize(1, {-1}), Error);
  EXPECT_EQ(pool.threads(), 1);  // and goes on as it was
  pool.run([](Worker&) {});
}

// The caller computes on its named core and is free again afterwards.
TEST(Pool, PinsTheCallerOnlyWhileAJobRuns) {
  cpu_set_t before, during, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  ComputePool pool(1, {core});
  pool.run([&](Worker&) { sched_getaffinity(0, sizeof(during), &during); });
  sched_getaffinity(0, sizeof(after), &after);
  EXPECT_EQ(CPU_COUNT(&during), 1);
  EXPECT_TRUE(CPU_ISSET(core, &during));
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

}  // namespace
}  // namespace tutti
