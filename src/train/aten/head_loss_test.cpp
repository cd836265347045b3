// The loss in chunks of rows is the dense one, gradients and all; LoRA's frozen head gets none.
#include "train/aten/head_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "train/aten/parameters.h"

namespace tutti::train {
namespace {

constexpr int64_t kRows = 37, kHidden = 24, kVocabulary = 53, kMask = 50;

struct Case {
  at::Tensor states, head;
  HeadRows rows;
};

Case random_case(bool entropies) {
  Case c;
  c.states = normal_tensor(7, "states", {kRows, kHidden}, 1).set_requires_grad(true);
  c.head = normal_tensor(7, "head", {kVocabulary, kHidden}, 0.6).set_requires_grad(true);
  const at::Tensor numbers = normal_tensor(7, "numbers", {3, kRows}, 1);
  const auto* n = numbers.data_ptr<float>();
  const at::Tensor likeliest = c.states.matmul(c.head.t()).argmax(1);
  for (int64_t i = 0; i < kRows; ++i) {
    const bool right = n[i] > 0 && likeliest[i].item<int64_t>() < kMask;
    c.rows.targets.push_back(right ? likeliest[i].item<int64_t>() : i % kMask);
    c.rows.weights.push_back(i % 5 == 0 ? 0.0f : std::abs(n[kRows + i]));
    if (entropies) c.rows.entropy_weights.push_back(i % 3 == 0 ? 0.0f : n[2 * kRows + i]);
  }
  return c;
}

// All logits at once, in fp64, gradients by ATen.
at::Tensor dense_loss(const at::Tensor& states, const at::Tensor& head, const HeadRows& rows,
                      const HeadOptions& o) {
  at::Tensor logits = states.matmul(head.t());
  if (o.never >= 0) {
    std::vector<int64_t> others;
    for (int64_t i = 0; i < head.size(0); ++i) {
      if (i != o.never) others.push_back(i);
    }
    // Its column is taken out, so that targets above it move down: there are none.
    logits = logits.index_select(1, at::tensor(others));
  }
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (size_t i = 0; i < rows.targets.size(); ++i) {
    const at::Tensor z = logits[int64_t(i)];
    loss = loss + double(rows.weights[i]) * (z.logsumexp(0) - z[rows.targets[i]]);
    if (rows.entropy_weights.empty()) continue;
    const at::Tensor q = (z / o.temperature).softmax(0);
    loss = loss - double(rows.entropy_weights[i]) * (q * q.log()).sum();
  }
  return loss;
}

double error(const at::Tensor& got, const at::Tensor& expected) {
  return ((got.to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST(HeadLoss, IsTheDenseOneWhateverTheChunk) {
  for (const bool entropies : {false, true}) {
    for (const double temperature : {1.0, 0.5}) {
      for (const int64_t never : {int64_t(-1), kMask}) {
        for (const int64_t chunk :
             {int64_t(0), int64_t(1), int64_t(7), int64_t(16), int64_t(36), kRows}) {
          Case c = random_case(entropies);
          const HeadOptions options{temperature, never, chunk};
          const at::Tensor states = c.states.detach().to(at::kDouble).set_requires_grad(true);
          const at::Tensor head = c.head.detach().to(at::kDouble).set_requires_grad(true);
          const at::Tensor expected = dense_loss(states, head, c.rows, options);
          expected.backward();
          const at::Tensor got = head_loss(c.states, c.head, c.rows, options);
          (got * 3).backward();
          EXPECT_LE(error(got.detach(), expected.detach()), 1e-5);
          EXPECT_LE(error(c.states.grad(), states.grad() * 3), 2e-5);
          EXPECT_LE(error(c.head.grad(), head.grad() * 3), 2e-5);
          if (never >= 0) {
            EXPECT_EQ(c.head.grad()[never].abs().max().item<float>(), 0);
          }
        }
      }
    }
  }
}

TEST(HeadLoss, HasTheSameBitsTwice) {
  at::Tensor first;
  for (int time = 0; time < 2; ++time) {
    Case c = random_case(true);
    head_loss(c.states, c.head, c.rows, {0.5, kMask, 8}).backward();
    const at::Tensor all = at::cat({c.states.grad().flatten(), c.head.grad().flatten()});
    if (time == 0) first = all;
    EXPECT_EQ(std::memcmp(first.data_ptr(), all.data_ptr(), size_t(all.nbytes())), 0);
  }
}

TEST(HeadLoss, AFrozenHeadGetsNoGradient) {
  Case c = random_case(false);
  const at::Tensor frozen = c.head.detach();
  head_loss(c.states, c.head, c.rows, {}).backward();
  const at::Tensor expected = c.states.grad().clone();
  c.states.mutable_grad().zero_();
  const at::Tensor loss = head_loss(c.states, frozen, c.rows, {});
  loss.backward();
  EXPECT_FALSE(frozen.grad().defined());
  EXPECT_EQ(std::memcmp(expected.data_ptr(), c.states.grad().data_ptr(), size_t(expected.nbytes())),
            0);
  EXPECT_FALSE(head_loss(c.states.detach(), frozen, c.rows, {}).requires_grad());
}

// A tied head: both ways to the same tensor add up.
TEST(HeadLoss, GradientsOfATiedHeadAddUp) {
  const Case c = random_case(false);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < kRows; ++i) ids.push_back((i * 7) % kVocabulary);
  const auto through = [&](at::Tensor table, const auto& loss) {
    table.set_requires_grad(true);
    loss(at::embedding(table, at::tensor(ids)).tanh(), table).backward();
    return table.grad();
  };
  const at::Tensor expected =
      through(c.head.detach().to(at::kDouble),
              [&](const auto& s, const auto& h) { return dense_loss(s, h, c.rows, {}); });
  const at::Tensor got = through(c.head.detach().clone(), [&](const auto& s, const auto& h) {
    return head_loss(s, h, c.rows, {1, -1, 5});
  });
  EXPECT_LE(error(got, expected), 2e-5);
}

TEST(HeadView, SaysWhatIsRightAndHowSure) {
  const Case c = random_case(false);
  const HeadView view = head_view(c.states, c.head, c.rows.targets, {0.5, kMask, 6});
  at::Tensor logits = c.states.detach().to(at::kDouble).matmul(c.head.detach().to(at::kDouble).t());
  logits.select(1, kMask).fill_(-INFINITY);
  int right = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    const at::Tensor z = logits[i];
    EXPECT_EQ(view.right[size_t(i)], z.argmax().item<int64_t>() == c.rows.targets[size_t(i)]);
    const at::Tensor r = (z * 2).softmax(0);
    double entropy = 0;
    for (int64_t j = 0; j < kVocabulary; ++j) {
      const double p = r[j].item<double>();
      if (p > 0) entropy -= p * std::log(p);
    }
    EXPECT_NEAR(view.entropies[size_t(i)], entropy, 1e-5);
    right += view.right[size_t(i)];
  }
  EXPECT_GT(right, 5);
  EXPECT_LT(right, kRows - 5);
}

TEST(HeadChunk, KeepsItsLogitsSmall) {
  EXPECT_EQ(head_chunk_rows(49152), 160);
  EXPECT_EQ(head_chunk_rows(1 << 24), 16);
  EXPECT_GE(head_chunk_rows(8), int64_t(1) << 19);
}

}  // namespace
}  // namespace tutti::train
