#include "train/loss_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/draws.h"
#include "base/error.h"
#include "train/anchored.h"

namespace tutti::train {
namespace {

// The draws of one example, each with a number of its own.
class Noise {
 public:
  Noise(uint64_t seed, uint64_t example) {
    key_.seed = seed;
    key_.purpose = Purpose::kTrainingNoise;
    key_.path = uint32_t(example >> 32);
    key_.position = uint32_t(example);
  }
  double time(size_t block) const { return uniform(kTimes + uint32_t(block)); }
  double mask(size_t token) const { return uniform(kMasks + uint32_t(token)); }
  double cut() const { return uniform(0); }
  double cut_length() const { return uniform(1); }
  double block() const { return uniform(2); }

 private:
  static constexpr uint32_t kTimes = 1u << 24, kMasks = 1u << 28;
  double uniform(uint32_t index) const { return double(uniform_open(draw_word(key_, index))); }
  DrawKey key_;
};

// The sequence as it is trained: with a small chance only a beginning of it.
Example cut(const LossOptions& o, const Example& example, const Noise& noise) {
  Example e = example;
  if (noise.cut() >= o.cut) return e;
  const size_t kept = 1 + size_t(noise.cut_length() * double(e.tokens.size()));
  e.tokens.resize(std::min(kept, e.tokens.size()));
  e.prompt = std::min(e.prompt, int(e.tokens.size()));
  return e;
}

// The probability with which tokens are masked: draw `index` of `count` of the step.
double rate(const LossOptions& o, double u, size_t index, size_t count) {
  if (o.stratified) u = (u + double(index)) / double(count);
  const double t = o.low + (o.high - o.low) * u;
  return (1 - o.epsilon) * t + o.epsilon;
}

// The first token that may be predicted: no row stands before token 0 when logits are shifted.
int first_predicted(const Example& e, bool shifted) { return std::max(e.prompt, shifted ? 1 : 0); }

LossSequence next_tokens(const models::Config& config, const Example& e) {
  LossSequence s;
  s.sequence = plain_sequence(config, e.tokens);
  for (int i = first_predicted(e, true); i < int(e.tokens.size()); ++i) {
    s.predicted.push_back(i - 1);
    s.targets.push_back(e.tokens[size_t(i)]);
    s.weights.push_back(1);
  }
  return s;
}

// Which tokens are masked, and the rate of each.
struct Masking {
  std::vector<bool> masked;
  std::vector<double> rates;  // of the sequence or of its blocks
  int block = 0;              // tokens per rate; 0: one rate
  double rate_of(size_t token) const { return rates[block > 0 ? token / size_t(block) : 0]; }
};

Masking draw_masking(const LossOptions& o, const models::Config& config, const Example& e,
                     const Noise& noise, size_t& drawn, size_t all_drawn) {
  Masking m;
  m.block = o.time_per_block ? config.attention_block : 0;
  const size_t n = e.tokens.size();
  const size_t times = m.block > 0 ? (n + size_t(m.block) - 1) / size_t(m.block) : 1;
  for (size_t b = 0; b < times; ++b) m.rates.push_back(rate(o, noise.time(b), drawn++, all_drawn));
  m.masked.resize(n);
  for (size_t i = size_t(first_predicted(e, config.shifted_logits)); i < n; ++i) {
    m.masked[i] = noise.mask(i) < m.rate_of(i);
  }
  return m;
}

LossSequence masked_tokens(const LossOptions& o, const models::Config& config, const Example& e,
                           const Masking& m) {
  std::vector<int32_t> noisy = e.tokens;
  for (size_t i = 0; i < noisy.size(); ++i) {
    if (m.masked[i]) noisy[i] = config.mask_token;
  }
  LossSequence s;
  s.sequence = plain_sequence(config, std::move(noisy));
  if (o.kind == LossKind::kBlock) {
    Sequence& q = s.sequence;
    q.sight = Sight::kBlockDiffusion;
    const std::vector<int32_t> positions = q.positions;
    q.positions.insert(q.positions.end(), positions.begin(), positions.end());
    q.tokens.insert(q.tokens.end(), e.tokens.begin(), e.tokens.end());
  }
  const std::vector<double> context = o.weight == TimeWeight::kContext
                                          ? context_weights(m.masked, o.context)
                                          : std::vector<double>();
  for (size_t i = 0; i < m.masked.size(); ++i) {
    if (!m.masked[i]) continue;
    s.predicted.push_back(int(i) - (config.shifted_logits ? 1 : 0));
    s.targets.push_back(e.tokens[i]);
    s.weights.push_back(o.weight == TimeWeight::kContext ? context[i]
                        : o.weight == TimeWeight::kOne   ? 1.0
                                                         : 1 / m.rate_of(i));
  }
  s.rates = m.rates;
  return s;
}

// A share of the tokens behind the prompt is masked, as many as the rate says, and predicted by
// query rows.
LossSequence any_subset(const LossOptions& o, const Example& e, const Noise& noise, size_t drawn,
                        size_t all_drawn) {
  const size_t n = e.tokens.size();
  double u = noise.time(0);
  if (o.stratified) u = (u + double(drawn)) / double(all_drawn);
  const double share = o.low + (o.high - o.low) * u;
  std::vector<int> shuffled;
  for (int i = e.prompt; i < int(n); ++i) shuffled.push_back(i);
  std::ranges::stable_sort(shuffled, {}, [&](int i) { return noise.mask(size_t(i)); });
  const size_t most = shuffled.size();
  shuffled.resize(std::clamp(size_t(share * double(n)), std::min<size_t>(1, most), most));
  std::vector<int> order = shuffled;
  if (!o.random_order) std::ranges::sort(order);
  LossSequence s;
  Sequence& q = s.sequence;
  q.sight = Sight::kOrder;
  q.tokens = e.tokens;
  q.ranks.assign(n, 0);
  q.given = int(n - order.size());
  for (size_t i = 0; i < order.size(); ++i)
    q.ranks[size_t(order[i])] = q.given + (o.independent ? 0 : int(i));
  std::vector<bool> masked(n);
  for (const int i : order) masked[size_t(i)] = true;
  int rank = 0;
  for (size_t i = 0; i < n; ++i) {
    q.positions.push_back(int32_t(i));
    if (!masked[i]) q.ranks[i] = rank++;
  }
  for (const int i : order) {
    s.predicted.push_back(q.rows());
    s.targets.push_back(e.tokens[size_t(i)]);
    s.weights.push_back(1);
    q.queries.push_back(i);
    q.tokens.push_back(-1);
    q.positions.push_back(i);
  }
  s.rates = {share};
  return s;
}

// The tokens whose certainty is trained: one block of the answer, or all of it.
std::pair<int, int> active_tokens(const LossOptions& o, const Example& e, int first,
                                  const Noise& noise) {
  const int end = int(e.tokens.size());
  if (o.certainty_block == 0 || first >= end) return {first, end};
  const int blocks = (end - first + o.certainty_block - 1) / o.certainty_block;
  const int n = std::min(int(noise.block() * blocks), blocks - 1);
  return {first + n * o.certainty_block, std::min(first + (n + 1) * o.certainty_block, end)};
}

// The active tokens half masked, what comes behind them masked; then the other half.
void certainty_pair(const LossOptions& o, const models::Config& config, const Example& e,
                    const Noise& noise, size_t examples, std::vector<LossSequence>& out) {
  const auto [begin, end] = active_tokens(o, e, first_predicted(e, config.shifted_logits), noise);
  const double p = (1 - o.epsilon) * o.certainty_rate + o.epsilon;
  for (const bool complement : {false, true}) {
    std::vector<int32_t> noisy = e.tokens;
    std::fill(noisy.begin() + end, noisy.end(), config.mask_token);
    LossSequence s;
    for (int i = begin; i < end; ++i) {
      if ((noise.mask(size_t(i)) < p) == complement) continue;
      noisy[size_t(i)] = config.mask_token;
      s.predicted.push_back(i - (config.shifted_logits ? 1 : 0));
      s.targets.push_back(e.tokens[size_t(i)]);
    }
    s.sequence = plain_sequence(config, std::move(noisy));
    s.weights.assign(s.predicted.size(), 1.0 / (double(s.predicted.size()) * double(examples)));
    s.rates = {complement ? 1 - p : p};
    s.certainty = o.certainty_weight / double(examples);
    out.push_back(std::move(s));
  }
}

// Tokens that are predicted or could have been.
size_t answer_tokens(const LossOptions& o, const models::Config& config, const Example& e) {
  const int first = first_predicted(e, o.kind == LossKind::kNextToken || config.shifted_logits);
  return size_t(std::max(int(e.tokens.size()) - first, 0));
}

void divide(const LossOptions& o, const std::vector<size_t>& answers,
            std::vector<LossSequence>& sequences) {
  double tokens = 0, masked = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    tokens += double(answers[i]);
    masked += double(sequences[i].predicted.size());
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const double divisor = o.mean == LossMean::kTokens ? tokens
                           : o.mean == LossMean::kMasked
                               ? masked
                               : double(sequences.size()) * double(answers[i]);
    for (double& w : sequences[i].weights) w /= divisor;
  }
}

}  // namespace

void check_loss(const LossOptions& o, const models::Config& config) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorKind::kUsage, "loss.kind: " + what);
  };
  using models::AttentionKind;
  if (o.kind == LossKind::kNextToken && config.attention != AttentionKind::kCausal) {
    refuse("\"next-token\" needs a causal model (llama, qwen2, qwen3)");
  }
  if (guesses(o.kind) && config.attention != AttentionKind::kCausal) {
    refuse("\"prompt-tokens\" and \"transfer\" need a causal model (llama, qwen2, qwen3)");
  }
  if (o.kind == LossKind::kCertainty && config.attention != AttentionKind::kBidirectional) {
    refuse("\"certainty\" needs a model that sees the whole sequence (llada, dream)");
  }
  if (o.kind == LossKind::kMasked && config.attention != AttentionKind::kBidirectional) {
    refuse("\"masked\" needs a model that sees the whole sequence (llada, dream)");
  }
  if (o.kind == LossKind::kAnySubset && config.attention != AttentionKind::kPermutation) {
    refuse("\"any-subset\" needs a model of two streams (xlnet)");
  }
  if (o.kind == LossKind::kBlock && config.attention != AttentionKind::kBlockCausal) {
    refuse("\"block\" needs a block-causal model (sdar)");
  }
  if (o.kind != LossKind::kNextToken && o.kind != LossKind::kAnySubset && !guesses(o.kind) &&
      config.mask_token < 0) {
    refuse("needs a mask token, and the model has none; name one in tokenizer.mask");
  }
}

std::vector<double> context_weights(const std::vector<bool>& masked, double q) {
  std::vector<double> weights(masked.size());
  for (size_t i = 0; i < masked.size(); ++i) {
    for (size_t j = 0; masked[i] && j < masked.size(); ++j) {
      const double distance = std::abs(double(i) - double(j));
      if (!masked[j]) weights[i] += 0.5 * q * std::pow(1 - q, distance - 1);
    }
  }
  return weights;
}

std::vector<LossSequence> loss_sequences(const LossOptions& o, const models::Config& config,
                                         std::span<const Example> examples, uint64_t seed,
                                         uint64_t first) {
  std::vector<Example> cut_examples;
  std::vector<Noise> noises;
  size_t times = 0, drawn = 0;
  for (size_t i = 0; i < examples.size(); ++i) {
    noises.emplace_back(seed, first + i);
    cut_examples.push_back(cut(o, examples[i], noises.back()));
    const size_t n = cut_examples.back().tokens.size(),
                 block = size_t(std::max(config.attention_block, 1));
    times += o.time_per_block ? (n + block - 1) / block : 1;
  }
  std::vector<LossSequence> out;
  std::vector<size_t> answers;
  for (size_t i = 0; i < examples.size(); ++i) {
    const Example& e = cut_examples[i];
    answers.push_back(answer_tokens(o, config, e));
    if (guesses(o.kind)) {
      out.push_back(anchored(o, config, e, seed, first + i));
    } else if (o.kind == LossKind::kCertainty) {
      certainty_pair(o, config, e, noises[i], examples.size(), out);
    } else if (o.kind == LossKind::kNextToken) {
      out.push_back(next_tokens(config, e));
    } else if (o.kind == LossKind::kAnySubset) {
      out.push_back(any_subset(o, e, noises[i], i, examples.size()));
    } else {
      out.push_back(
          masked_tokens(o, config, e, draw_masking(o, config, e, noises[i], drawn, times)));
    }
  }
  if (guesses(o.kind)) {
    divide_by_predictions(out);
  } else if (o.kind != LossKind::kCertainty) {
    divide(o, answers, out);
  }
  return out;
}

}  // namespace tutti::train
