#include "decode/diffusion/filter.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/draws.h"
#include "base/error.h"
#include "formats/safetensors.h"

namespace tutti::decode::diffusion {
namespace {

FilterWeights random_filter(Draws& draws, int block) {
  FilterWeights w;
  w.block = block;
  const auto fill = [&](std::vector<float>& v, int n) {
    for (int i = 0; i < n; ++i) v.push_back(draws.uniform(-1, 1));
  };
  fill(w.w1, block * block);
  fill(w.b1, block);
  fill(w.w2, block * block);
  fill(w.b2, block);
  return w;
}

class Folder : public testing::Test {
 protected:
  Folder()
      : path(std::filesystem::temp_directory_path() / ("filter_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path);
  }
  ~Folder() override { std::filesystem::remove_all(path); }

  std::filesystem::path write(const FilterWeights& w,
                              const std::map<std::string, std::string>& metadata,
                              bool whole = true) {
    const uint64_t n = uint64_t(w.block);
    const auto tensor = [](const char* name, const std::vector<float>& v,
                           std::vector<uint64_t> shape) {
      return formats::SafetensorsTensor{name, formats::Dtype::kF32, std::move(shape),
                                        std::as_bytes(std::span(v))};
    };
    std::vector<formats::SafetensorsTensor> tensors{tensor("l1.weight", w.w1, {n, n}),
                                                    tensor("l1.bias", w.b1, {n}),
                                                    tensor("l2.weight", w.w2, {n, n})};
    if (whole) tensors.push_back(tensor("l2.bias", w.b2, {n}));
    formats::write_safetensors(path / "filter.safetensors", tensors, metadata);
    return path / "filter.safetensors";
  }
  std::filesystem::path path;
};

TEST_F(Folder, AFilterComesBackAndSaysTheSame) {
  Draws draws(2);
  for (const bool relu : {true, false}) {
    const FilterWeights w = random_filter(draws, 7);
    const FilterWeights read =
        FilterWeights::read(write(w, {{"activation", relu ? "relu" : "none"}}));
    EXPECT_EQ(read.relu, relu);
    std::vector<float> c;
    for (int i = 0; i < 7; ++i) c.push_back(draws.uniform(0, 1));
    const std::vector<float> z = read(c);
    for (size_t o = 0; o < 7; ++o) {
      double sum = double(w.b2[o]);
      for (size_t h = 0; h < 7; ++h) {
        double hidden = double(w.b1[h]);
        for (size_t i = 0; i < 7; ++i) hidden += double(w.w1[h * 7 + i]) * double(c[i]);
        sum += double(w.w2[o * 7 + h]) * (relu ? std::max(hidden, 0.0) : hidden);
      }
      EXPECT_NEAR(double(z[o]), sum, 1e-5);
    }
  }
}

TEST_F(Folder, WhatIsNoFilterIsRefused) {
  Draws draws(2);
  FilterWeights w = random_filter(draws, 4);
  EXPECT_THROW(FilterWeights::read(write(w, {}, false)), Error);
  EXPECT_THROW(FilterWeights::read(write(w, {{"activation", "swish"}})), Error);
  EXPECT_THROW(FilterWeights::read(path / "absent.safetensors"), Error);
  PolicyOptions o;
  o.name = "learned";
  o.filter = write(w, {}).string();
  EXPECT_NO_THROW(make_policy(o, 4));
  EXPECT_THROW(make_policy(o, 8), Error);
}

// sigmoid(z) > a exactly where 1 / (1 + exp(-z)) is, and at a = 1 only what the schedule owes.
TEST(LearnedFilter, AcceptsAboveItsCut) {
  Draws draws(4);
  for (int round = 0; round < 500; ++round) {
    const FilterWeights w = random_filter(draws, 6);
    std::vector<Prediction> block(6);
    std::vector<float> c;
    for (size_t i = 0; i < 6; ++i) {
      block[i].position = 20 + int(i);
      block[i].open = i == 0 || draws.below(3) > 0;
      block[i].probability = draws.uniform(0, 1);
      block[i].log_probability = std::log(block[i].probability);
      c.push_back(block[i].probability);
    }
    const std::vector<float> z = w(c);
    const float accept = draws.uniform(0.2f, 0.99f);
    std::vector<Prediction> copy = block;
    const auto chosen = LearnedFilter(w, accept).choose({}, copy);
    size_t best = 0, expected = 0;
    for (size_t i = 1; i < 6; ++i) {
      if (block[i].open && block[i].probability > block[best].probability) best = i;
    }
    for (size_t i = 0; i < 6; ++i) {
      const bool accepted = 1 / (1 + std::exp(-double(z[i]))) > double(accept);
      if (!block[i].open || !(accepted || i == best)) continue;
      ++expected;
      EXPECT_NE(std::ranges::find(chosen, int(i)), chosen.end());
    }
    EXPECT_EQ(chosen.size(), expected);
    EXPECT_EQ(LearnedFilter(w, 1.0f).choose({}, copy), std::vector<int>{int(best)});
  }
}

}  // namespace
}  // namespace tutti::decode::diffusion
