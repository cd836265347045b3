// Network jobs: batched == alone, streams keep going, one bad job hurts nobody else, cancel is at
// once.
#include "engine/network.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"
#include "tensor/kernels.h"

namespace tutti::engine {
namespace {

constexpr int kWidth = 48, kInner = 80, kOut = 40;

std::vector<float> random_floats(uint32_t stream, size_t n) {
  DrawKey key;
  key.purpose = Purpose::kTest;
  key.path = stream;
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = uniform_open(draw_word(key, uint32_t(i))) - 0.5f;
  return values;
}

// relu(x A) B over the real kernels, one step per layer. `slow` seconds are added to each step per
// job.
class Mlp : public Network<std::vector<float>, std::vector<float>> {
 public:
  Mlp() {
    const auto a = random_floats(1, size_t(kInner) * kWidth),
               b = random_floats(2, size_t(kOut) * kInner);
    first_ = pack(a, kInner, kWidth);
    second_ = pack(b, kOut, kInner);
    plain_first_ = a;
    plain_second_ = b;
  }
  int max_batch() const override { return most; }
  void check(const std::vector<float>& input) const override {
    if (input.size() != kWidth)
      throw Error(ErrorKind::kUsage, "mlp: " + std::to_string(input.size()) + " numbers");
  }
  std::unique_ptr<NetworkBatch> begin(std::vector<Job> jobs) override {
    batches.push_back(int(jobs.size()));
    return std::make_unique<Batch>(*this, std::move(jobs));
  }
  // The same sums in the same order, by hand.
  std::vector<float> by_hand(const std::vector<float>& x) const {
    const auto layer = [](const std::vector<float>& w, const std::vector<float>& in, int out) {
      std::vector<float> y(static_cast<size_t>(out), 0.0f);
      for (size_t o = 0; o < y.size(); ++o) {
        for (size_t k = 0; k < in.size(); ++k) y[o] = std::fma(w[o * in.size() + k], in[k], y[o]);
      }
      return y;
    };
    auto inner = layer(plain_first_, x, kInner);
    for (float& v : inner) v = std::max(v, 0.0f);
    return layer(plain_second_, inner, kOut);
  }

  int most = 8;
  int layers = 2;  // more: idle steps that only take time
  double slow = 0;
  float poison = 1e9f;  // a first input of this makes the batch throw
  std::vector<int> batches;

 private:
  static tensor::Matrix pack(const std::vector<float>& w, int out, int in) {
    return tensor::Matrix::pack(tensor::Type::kF32, std::as_bytes(std::span(w)), out, in,
                                tensor::Arithmetic::kExactF32);
  }
  class Batch : public NetworkBatch {
   public:
    Batch(Mlp& mlp, std::vector<Job> jobs) : mlp_(mlp), jobs_(std::move(jobs)) {
      for (const auto& job : jobs_) in_.insert(in_.end(), job.input->begin(), job.input->end());
      inner_.resize(jobs_.size() * kInner);
      out_.resize(jobs_.size() * kOut);
    }
    int steps() const override { return mlp_.layers; }
    void run(Worker& worker, int step) override {
      if (worker.index() == 0 && mlp_.slow > 0) {
        std::this_thread::sleep_for(
            std::chrono::duration<double>(mlp_.slow * double(jobs_.size())));
      }
      for (const auto& job : jobs_) {
        if ((*job.input)[0] == mlp_.poison) throw std::runtime_error("poisoned");
      }
      const auto& k = tensor::kernels();
      if (step == 0) {
        const auto [first, last] = worker.share(mlp_.first_.tiles());
        k.matmul_dense(mlp_.first_, in_.data(), kWidth, int(jobs_.size()), first, last,
                       inner_.data(), kInner);
      }
      worker.barrier();
      if (step == 1 && worker.index() == 0) {
        for (float& v : inner_) v = std::max(v, 0.0f);
      }
      worker.barrier();
      if (step == 1) {
        const auto [first, last] = worker.share(mlp_.second_.tiles());
        k.matmul_dense(mlp_.second_, inner_.data(), kInner, int(jobs_.size()), first, last,
                       out_.data(), kOut);
      }
      worker.barrier();
      if (step == 1 && worker.index() == 0) {
        for (size_t j = 0; j < jobs_.size(); ++j) {
          jobs_[j].output->assign(out_.begin() + long(j) * kOut, out_.begin() + long(j + 1) * kOut);
        }
      }
    }

   private:
    Mlp& mlp_;
    std::vector<Job> jobs_;
    std::vector<float> in_, inner_, out_;
  };

  tensor::Matrix first_, second_;
  std::vector<float> plain_first_, plain_second_;
};

class Networks : public testing::TestWithParam<int> {
 protected:
  TinyModel tiny_ = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, GetParam());
};
INSTANTIATE_TEST_SUITE_P(Threads, Networks, testing::Values(1, 2));

TEST_P(Networks, JobsOfManyRequestsGoTogetherAndEqualEachAlone) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const auto mlp = std::make_shared<Mlp>();
  std::vector<std::vector<float>> got(19);
  std::vector<TestProgram> programs;
  for (uint32_t i = 0; i < got.size(); ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      got[i] = co_await engine.run(mlp, request, random_floats(100 + i, kWidth));
    });
  }
  const auto requests = run_programs(engine, programs);
  for (uint32_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i], mlp->by_hand(random_floats(100 + i, kWidth))) << i;
  }
  EXPECT_EQ(mlp->batches, (std::vector<int>{8, 8, 3}));
  EXPECT_EQ(engine.statistics().network_calls, 3u);
  EXPECT_EQ(engine.statistics().network_jobs, 19u);
  double seconds = 0;
  for (const auto& request : requests) {
    EXPECT_EQ(request->statistics.network_jobs, 1u);
    seconds += request->statistics.network_seconds;
  }
  EXPECT_NEAR(seconds, engine.statistics().network_seconds, 1e-9);
}

TEST_P(Networks, StreamsKeepGoingAndKeepTheirTokens) {
  Engine alone(tiny_.model, tiny_.pool, small_engine());
  const auto expected = decode_alone(alone, random_tokens(1, 20), 60);
  EngineOptions options = small_engine();
  options.network_slot_seconds = 0.004;
  Engine engine(tiny_.model, tiny_.pool, options);
  const auto mlp = std::make_shared<Mlp>();
  mlp->layers = 40;
  mlp->slow =
      0.001;  // 40 ms alone, 320 ms for a batch of eight: an uncut batch would stop the stream
  std::vector<int32_t> text;
  std::vector<std::vector<float>> got(4);
  int running = int(got.size());
  uint64_t ticks_beside = 0;
  std::vector<TestProgram> programs;
  programs.push_back([&](std::shared_ptr<Request> request) -> Task<void> {
    Context context(engine, request);
    co_await decode_greedily(engine, context, random_tokens(1, 20), 60, text);
  });
  for (uint32_t i = 0; i < got.size(); ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      got[i] = co_await engine.run(mlp, request, random_floats(200 + i, kWidth));
      --running;
    });
  }
  engine.on_tick([&](const TickReport&) { ticks_beside += running > 0; });
  run_programs(engine, programs);
  EXPECT_EQ(text, expected);
  for (uint32_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], mlp->by_hand(random_floats(200 + i, kWidth)));
  // 4 jobs x 40 steps x 1 ms, at most 4 ms between two ticks: some 40 ticks, and never a batch of
  // all four at once.
  EXPECT_GE(ticks_beside, 30u);
  EXPECT_EQ(mlp->batches.front(), 1);
}

TEST_P(Networks, ABadInputIsItsOwnCallersAlone) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  const auto mlp = std::make_shared<Mlp>();
  mlp->poison = 7.0f;
  std::vector<std::string> outcome(6);
  std::vector<TestProgram> programs;
  for (uint32_t i = 0; i < outcome.size(); ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      auto input = random_floats(300 + i, i == 2 ? 5 : kWidth);
      if (i == 4) input[0] = 7.0f;
      try {
        const auto copy = input;
        const auto output = co_await engine.run(mlp, request, std::move(input));
        outcome[i] = output == mlp->by_hand(copy) ? "right" : "wrong";
      } catch (const std::exception& e) {
        outcome[i] = e.what();
      }
    });
  }
  run_programs(engine, programs);
  EXPECT_EQ(outcome, (std::vector<std::string>{"right", "right", "mlp: 5 numbers", "right",
                                               "poisoned", "right"}));
  EXPECT_EQ(engine.statistics().network_jobs, 4u);
}

TEST_P(Networks, CancelIsAtOnceWaitingOrRunning) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  auto mlp = std::make_shared<Mlp>();
  mlp->most = 2;
  mlp->layers = 1000;
  mlp->slow = 0.0005;
  std::vector<std::shared_ptr<Request>> requests;
  std::vector<Context> contexts;
  for (uint32_t i = 0; i < 4; ++i) {
    requests.push_back(engine.new_request());
    contexts.emplace_back(engine, requests.back());
    engine.spawn(
        requests.back(),
        [&, i]() -> Task<void> {
          co_await engine.forward(contexts[i], Rows::append(random_tokens(i, 40), 0, std::nullopt));
        },
        [](std::exception_ptr) {});
  }
  engine.run();
  // All slots are there: the four jobs now arrive together, however slow this machine is.
  std::vector<int> ended(4, 0);
  std::vector<std::vector<float>> got(4);
  for (uint32_t i = 0; i < 4; ++i) {
    engine.spawn(
        requests[i],
        [&, i]() -> Task<void> {
          const Context context = std::move(contexts[i]);
          got[i] = co_await engine.run(mlp, requests[i], random_floats(i, kWidth));
        },
        [&, i](std::exception_ptr e) { ended[i] = e ? 2 : 1; });
  }
  // Once the first batch (two jobs, a second each) is at work: a running and a waiting job go, then
  // all but one.
  asio::steady_timer timer(engine.io(), std::chrono::milliseconds(40));
  timer.async_wait([&](auto) {
    ASSERT_EQ(mlp->batches.size(), 1u);
    engine.cancel(*requests[0]);
    engine.cancel(*requests[2]);
    asio::post(engine.io(), [&] {
      asio::post(engine.io(), [&] {
        EXPECT_EQ(ended, (std::vector<int>{2, 0, 2, 0}));
        EXPECT_EQ(engine.pages().referenced(), 4);  // two Contexts of 40 slots are left
        engine.cancel(*requests[1]);
        mlp->layers = 3;
      });
    });
  });
  engine.run();
  EXPECT_EQ(ended, (std::vector<int>{2, 2, 2, 1}));
  EXPECT_EQ(mlp->batches, (std::vector<int>{2, 1}));
  EXPECT_EQ(engine.statistics().network_calls, 1u);
  EXPECT_EQ(engine.pages().free(), engine.pages().total());
}

TEST_P(Networks, TwoNetworksTakeTurns) {
  Engine engine(tiny_.model, tiny_.pool, small_engine());
  std::vector<std::shared_ptr<Mlp>> networks{std::make_shared<Mlp>(), std::make_shared<Mlp>()};
  for (auto& network : networks) {
    network->layers = 30;
    network->slow = 0.001;
  }
  std::vector<uint64_t> order;
  std::vector<TestProgram> programs;
  for (size_t i = 0; i < 4; ++i) {
    programs.push_back([&, i](std::shared_ptr<Request> request) -> Task<void> {
      auto network = networks[i % 2];
      network->most = 1;
      co_await engine.run(network, request, random_floats(uint32_t(i), kWidth));
      order.push_back(i);
    });
  }
  run_programs(engine, programs);
  // The second network's first job is not behind the first network's second.
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 1, 2, 3}));
}

}  // namespace
}  // namespace tutti::engine
