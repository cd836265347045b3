#include "models/expert_choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tutti::models {
namespace {

constexpr float kNever = -INFINITY;

void sigmoid(const tensor::Kernels& k, std::span<float> x) {
  for (float& a : x) a = -a;
  k.exp(x.data(), int(x.size()), x.data());
  for (float& a : x) a = 1.0f / (1.0f + a);
}

// The sum of the two largest.
float two_best(std::span<const float> scores) {
  float first = kNever, second = kNever;
  for (const float s : scores) {
    second = std::max(second, std::min(first, s));
    first = std::max(first, s);
  }
  return first + second;
}

// Scores outside the best groups become -inf.
void keep_best_groups(const Experts& e, std::span<float> scores) {
  const size_t size = size_t(e.count / e.groups);
  std::vector<float> sums;
  for (int g = 0; g < e.groups; ++g)
    sums.push_back(two_best(scores.subspan(size_t(g) * size, size)));
  for (size_t g = 0; g < sums.size(); ++g) {
    int before = 0;
    for (size_t o = 0; o < sums.size(); ++o)
      before += sums[o] > sums[g] || (sums[o] == sums[g] && o < g);
    if (before >= e.used_groups) std::ranges::fill(scores.subspan(g * size, size), kNever);
  }
}

}  // namespace

void choose_experts(const tensor::Kernels& k, const Experts& e, std::span<const float> bias,
                    std::span<float> scores, std::span<float> choice, std::span<int> ids,
                    std::span<float> weights) {
  if (e.score == Experts::Score::kSoftmax) {
    k.softmax(scores.data(), e.count);
  } else {
    sigmoid(k, scores);
  }
  std::span<float> by = scores;
  if (!bias.empty() || e.used_groups < e.groups) {
    by = choice;
    std::ranges::copy(scores, by.begin());
    if (!bias.empty()) k.add(bias.data(), e.count, by.data());
    if (e.used_groups < e.groups) keep_best_groups(e, by);
  }
  int found = k.top_k(by.data(), e.count, e.used, ids.data(), weights.data());
  for (; found < e.used; ++found) {  // only with NaN scores: route somewhere, with weight NaN
    ids[size_t(found)] = 0;
    weights[size_t(found)] = by[0];
  }
  if (by.data() != scores.data() && !e.bias_weighs) {
    for (size_t j = 0; j < weights.size(); ++j) weights[j] = scores[size_t(ids[j])];
  }
  if (e.normalise) {
    float sum = 0;
    for (const float w : weights) sum += w;
    sum += 1e-20f;  // as published: sigmoids may all be 0; changes no sum of a softmax's largest
    for (float& w : weights) w /= sum;
  }
  if (e.scale != 1.0f) k.scale(e.scale, e.used, weights.data());
}

}  // namespace tutti::models
