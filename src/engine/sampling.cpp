#include "engine/sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "tensor/kernels.h"

namespace tutti::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr std::array<std::string_view, 8> kRuleNames = {
    "bias",  "repetition", "presence_frequency", "temperature", "top_k", "top_p",
    "min_p", "typical"};

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kUsage, "sampling." + message);
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void check_range(std::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return;  // also refuses NaN
  refuse(std::string(field) + ": " + number(value) + " is out of range; give a value from " +
         number(low) + " to " + number(high));
}

void check_id(std::string_view field, int32_t id, int vocabulary) {
  if (id >= 0 && id < vocabulary) return;
  refuse(std::string(field) + ": token " + std::to_string(id) +
         " does not exist; the vocabulary has ids 0 to " + std::to_string(vocabulary - 1));
}

bool is_set(Rule rule, const Sampling& s) {
  switch (rule) {
    case Rule::kBias:
      return !s.logit_bias.empty();
    case Rule::kRepetition:
      return s.repetition_penalty != 1.0f;
    case Rule::kPresenceFrequency:
      return s.presence_penalty != 0 || s.frequency_penalty != 0;
    case Rule::kTemperature:
      return s.temperature != 1.0f && s.temperature != 0.0f;
    case Rule::kTopK:
      return s.top_k > 0;
    case Rule::kTopP:
      return s.top_p < 1.0f;
    case Rule::kMinP:
      return s.min_p > 0.0f;
    case Rule::kTypical:
      return s.typical_p < 1.0f;
  }
  return false;
}

bool shapes_greedy(Rule rule) {
  return rule == Rule::kBias || rule == Rule::kRepetition || rule == Rule::kPresenceFrequency;
}

// Probability mass as an integer, so that sums do not depend on their order. A weight is at most 1,
// so a vocabulary of four million tokens fits.
constexpr float kMassUnit = 0x1p42f;
uint64_t mass_of(float weight) { return uint64_t(int64_t(weight * kMassUnit)); }

}  // namespace

std::vector<Rule> default_order() {
  return {Rule::kBias,        Rule::kRepetition, Rule::kPresenceFrequency,
          Rule::kTemperature, Rule::kTopK,       Rule::kTopP,
          Rule::kMinP,        Rule::kTypical};
}

std::vector<Rule> parse_order(std::string_view text) {
  std::vector<Rule> order;
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    std::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    while (!word.empty() && is_blank(word.front())) word.remove_prefix(1);
    while (!word.empty() && is_blank(word.back())) word.remove_suffix(1);
    if (word.empty() && begin > text.size()) break;  // an empty list, or a ';' at the end
    const auto found = std::find(kRuleNames.begin(), kRuleNames.end(), word);
    if (found == kRuleNames.end()) {
      refuse("order: unknown rule '" + std::string(word) + "'; known are " +
             print_order(default_order()));
    }
    const Rule rule = Rule(found - kRuleNames.begin());
    if (std::find(order.begin(), order.end(), rule) != order.end()) {
      refuse("order: rule '" + std::string(word) + "' comes twice; name each rule once");
    }
    order.push_back(rule);
  }
  return order;
}

std::string print_order(std::span<const Rule> order) {
  std::string text;
  for (const Rule rule : order) {
    if (!text.empty()) text += ';';
    text += kRuleNames[size_t(rule)];
  }
  return text;
}

void validate(const Sampling& s, int vocabulary) {
  if (!s.greedy()) {
    if (!(s.temperature >= 1e-6f && s.temperature <= 1e6f)) {
      refuse("temperature: " + number(s.temperature) +
             " is out of range; give 0 (greedy) or a value from 1e-06 to 1e+06");
    }
  }
  check_range("top_k", s.top_k, 0, std::numeric_limits<int>::max());
  check_range("top_p", s.top_p, 0, 1);
  check_range("min_p", s.min_p, 0, 1);
  check_range("typical_p", s.typical_p, 0, 1);
  check_range("repetition_penalty", s.repetition_penalty, 0.01, 100);
  check_range("penalty_window", s.penalty_window, -1, std::numeric_limits<int>::max());
  check_range("presence_penalty", s.presence_penalty, -100, 100);
  check_range("frequency_penalty", s.frequency_penalty, -100, 100);
  check_range("logprobs", s.logprobs, -1, vocabulary);
  check_range("ranked", s.ranked, 0, vocabulary);
  for (const auto& [id, bias] : s.logit_bias) {
    check_id("logit_bias", id, vocabulary);
    if (bias != kMinusInfinity) check_range("logit_bias", bias, -1e6, 1e6);
  }
  for (const int32_t id : s.suppressed) check_id("suppressed", id, vocabulary);
  if (s.allowed && s.allowed->size() * 64 < size_t(vocabulary)) {
    refuse("allowed: " + std::to_string(s.allowed->size() * 64) +
           " bits do not cover the vocabulary; give at least " + std::to_string(vocabulary));
  }
  for (size_t i = 0; i < s.order.size(); ++i) {
    if (size_t(s.order[i]) >= kRuleNames.size()) refuse("order: not a rule; see parse_order");
    if (std::find(s.order.begin(), s.order.begin() + ptrdiff_t(i), s.order[i]) !=
        s.order.begin() + ptrdiff_t(i)) {
      refuse("order: rule '" + std::string(kRuleNames[size_t(s.order[i])]) +
             "' comes twice; name each rule once");
    }
  }
  // A parameter that would silently do nothing is a mistake of the caller.
  for (const Rule rule : default_order()) {
    if (is_set(rule, s) && std::find(s.order.begin(), s.order.end(), rule) == s.order.end()) {
      const std::string name(kRuleNames[size_t(rule)]);
      refuse("order: rule '" + name + "' is set but the order leaves it out; add it to '" +
             print_order(s.order) + "' or unset it");
    }
  }
}

void History::remove(std::unordered_map<int32_t, int>& counts, int32_t token) {
  const auto found = counts.find(token);
  assert(found != counts.end());
  if (--found->second == 0) counts.erase(found);
}

void History::enter_window(int32_t token) {
  tokens_.push_back(token);
  if (window_ == 0) return;
  ++window_counts_[token];
  if (window_ > 0 && tokens_.size() > size_t(window_)) {
    remove(window_counts_, tokens_[tokens_.size() - 1 - size_t(window_)]);
  }
}

void History::append_prompt(std::span<const int32_t> tokens) {
  assert(output_size() == 0);
  for (const int32_t token : tokens) enter_window(token);
  prompt_size_ = int(tokens_.size());
}

void History::append_output(int32_t token) {
  enter_window(token);
  ++output_counts_[token];
}

void History::undo_output(int count) {
  assert(count <= output_size());
  for (; count > 0; --count) {
    const int32_t token = tokens_.back();
    remove(output_counts_, token);
    if (window_ != 0) {
      remove(window_counts_, token);
      if (window_ > 0 && tokens_.size() > size_t(window_)) {
        ++window_counts_[tokens_[tokens_.size() - 1 - size_t(window_)]];
      }
    }
    tokens_.pop_back();
  }
}

double Distribution::probability(int32_t id) const {
  const auto found = std::lower_bound(ids.begin(), ids.end(), id);
  return found != ids.end() && *found == id ? probabilities[size_t(found - ids.begin())] : 0.0;
}

float* Sampler::find(int32_t id) {
  if (whole_) return id >= 0 && size_t(id) < logits_.size() ? &logits_[size_t(id)] : nullptr;
  const auto found = std::lower_bound(ids_.begin(), ids_.end(), id);
  return found != ids_.end() && *found == id ? &values_[size_t(found - ids_.begin())] : nullptr;
}

int Sampler::best() {
  int index = -1;
  float value = kMinusInfinity;
  if (!values().empty()) {
    tensor::kernels().top_k(values().data(), int(values().size()), 1, &index, &value);
  }
  if (index < 0 || !(value > kMinusInfinity)) {
    refuse("allowed: no token is left; loosen logit_bias, suppressed ids or the grammar");
  }
  return index;
}

void Sampler::narrow(std::span<const int> kept) {
  if (kept.size() == values().size()) return;
  if (whole_) {
    ids_.resize(kept.size());
    values_.resize(kept.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      ids_[i] = kept[i];
      values_[i] = logits_[size_t(kept[i])];
    }
    whole_ = false;
    return;
  }
  for (size_t i = 0; i < kept.size(); ++i) {  // ascending: nothing is overwritten before it is read
    ids_[i] = ids_[size_t(kept[i])];
    values_[i] = values_[size_t(kept[i])];
  }
  ids_.resize(kept.size());
  values_.resize(kept.size());
}

void Sampler::constrain(const Sampling& s) {
  if (s.allowed && !whole_) {
    const auto in = [&](int32_t id) { return (*s.allowed)[size_t(id / 64)] >> (id % 64) & 1; };
    kept_.clear();
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (in(ids_[i])) kept_.push_back(int(i));
    }
    narrow(kept_);
  } else if (s.allowed) {
    const std::span<const uint64_t> words(*s.allowed);
    const int n = int(logits_.size());
    const auto word_of = [&](int word) {  // without bits beyond the vocabulary
      const int rest = n - word * 64;
      return words[size_t(word)] & (rest < 64 ? (uint64_t(1) << rest) - 1 : ~uint64_t(0));
    };
    int count = 0;
    for (int word = 0; word * 64 < n; ++word) count += std::popcount(word_of(word));
    if (count * 4 < n) {  // few: what follows costs only as much as they do
      kept_.clear();
      for (int word = 0; word * 64 < n; ++word) {
        for (uint64_t bits = word_of(word); bits != 0; bits &= bits - 1) {
          kept_.push_back(word * 64 + std::countr_zero(bits));
        }
      }
      narrow(kept_);
    } else if (count < n) {
      for (int i = 0; i < n; ++i) {
        if (!(words[size_t(i / 64)] >> (i % 64) & 1)) logits_[size_t(i)] = kMinusInfinity;
      }
    }
  }
  for (const int32_t id : s.suppressed) {
    if (float* logit = find(id)) *logit = kMinusInfinity;
  }
}

void Sampler::apply_bias(const Sampling& s) {
  for (const auto& [id, bias] : s.logit_bias) {
    if (float* logit = find(id)) *logit += bias;
  }
}

void Sampler::apply_repetition(float penalty, const History& history) {
  for (const auto& [id, count] : history.window_counts()) {
    if (float* logit = find(id)) *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
  }
}

void Sampler::apply_presence_frequency(float presence, float frequency, const History& history) {
  for (const auto& [id, count] : history.output_counts()) {
    if (float* logit = find(id)) *logit -= presence + frequency * float(count);
  }
}

void Sampler::apply_top_k(int k) {
  const std::span<float> all = values();
  if (size_t(k) >= all.size()) return;
  kept_.resize(size_t(k));
  weights_.resize(size_t(k));
  const int found =
      tensor::kernels().top_k(all.data(), int(all.size()), k, kept_.data(), weights_.data());
  kept_.resize(size_t(found));
  std::sort(kept_.begin(), kept_.end());
  narrow(kept_);
}

double Sampler::weigh() {
  const std::span<float> all = values();
  const float largest = all[size_t(best())];
  weights_.resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const float below = all[i] == largest ? 0.0f : all[i] - largest;
    weights_[i] = below >= -80.0f ? below : -81.0f;  // NaN counts as absent
  }
  tensor::kernels().exp(weights_.data(), int(weights_.size()), weights_.data());
  // Below exp(-80) nothing can be drawn; a zero keeps subnormals, whose handling is a CPU mode,
  // out.
  for (float& weight : weights_) weight = weight > 1e-35f ? weight : 0.0f;
  return largest;
}

// Keeps the candidates that come first by ascending key (lower id on ties) until their mass reaches
// the share `mass` < 1. Long lists are first counted into buckets of keys, so that only the bucket
// in which the mass is reached has to be sorted. `lowest` is a lower bound of the keys.
template <class Key>
void Sampler::keep_prefix(Key key, double lowest, float mass) {
  constexpr int kSortWhole = 512;
  constexpr int kBuckets = 2048;
  constexpr double kBucketsPerNat = 32;
  const int n = int(values().size());
  const int buckets = n > kSortWhole ? kBuckets : 1;
  buckets_.assign(size_t(buckets), 0);
  places_.resize(size_t(n));
  uint64_t total = 0;
  for (int i = 0; i < n; ++i) {
    const uint64_t m = mass_of(weights_[size_t(i)]);
    const double distance = (key(i) - lowest) * kBucketsPerNat;
    const int place = m == 0 ? -1 : distance < buckets - 1 ? int(distance) : buckets - 1;
    places_[size_t(i)] = int16_t(place);  // -1: without mass, comes last
    if (place >= 0) buckets_[size_t(place)] += m;
    total += m;
  }
  const double target = double(mass) * double(total);
  int border_bucket = 0;
  uint64_t sum = 0;
  // With mass 0 the first bucket that is not empty.
  while (sum + buckets_[size_t(border_bucket)] == 0 ||
         double(sum + buckets_[size_t(border_bucket)]) < target) {
    sum += buckets_[size_t(border_bucket++)];
  }
  const auto before = [&](int a, int b) {
    const double x = key(a), y = key(b);
    return x != y ? x < y : a < b;
  };
  border_.clear();
  for (int i = 0; i < n; ++i) {
    if (places_[size_t(i)] == border_bucket) border_.push_back(i);
  }
  std::sort(border_.begin(), border_.end(), before);
  int last = border_.front();  // the bucket in which the mass is reached has mass
  for (const int i : border_) {
    last = i;
    sum += mass_of(weights_[size_t(i)]);
    if (double(sum) >= target) break;
  }
  kept_.clear();
  for (int i = 0; i < n; ++i) {
    const int b = places_[size_t(i)];
    if (b >= 0 && (b < border_bucket || (b == border_bucket && !before(last, i)))) {
      kept_.push_back(i);
    }
  }
  narrow(kept_);
}

void Sampler::apply_top_p(float p) {
  const double largest = weigh();
  const std::span<const float> all = values();
  keep_prefix([all](int i) { return -double(all[size_t(i)]); }, -largest, p);
}

void Sampler::apply_min_p(float min_p) {
  weigh();
  const float least = min_p * *std::max_element(weights_.begin(), weights_.end());
  kept_.clear();
  for (int i = 0; i < int(weights_.size()); ++i) {
    if (weights_[size_t(i)] >= least) kept_.push_back(i);
  }
  narrow(kept_);
}

void Sampler::apply_typical(float p) {
  // |surprisal - entropy|: both contain the log of the normaliser, which cancels. What is left is
  // the distance of a logit from the mean logit.
  const double largest = weigh();
  const std::span<const float> all = values();
  double total = 0, sum = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (mass_of(weights_[i]) == 0) continue;
    total += double(weights_[i]);
    sum += double(weights_[i]) * (double(all[i]) - largest);
  }
  const double mean = largest + sum / total;
  keep_prefix([all, mean](int i) { return std::fabs(double(all[size_t(i)]) - mean); }, 0.0, p);
}

void Sampler::apply(Rule rule, const Sampling& s, const History& history) {
  switch (rule) {
    case Rule::kBias:
      return apply_bias(s);
    case Rule::kRepetition:
      return apply_repetition(s.repetition_penalty, history);
    case Rule::kPresenceFrequency:
      return apply_presence_frequency(s.presence_penalty, s.frequency_penalty, history);
    case Rule::kTemperature:
      return tensor::kernels().scale(1.0f / s.temperature, int(values().size()), values().data());
    case Rule::kTopK:
      return apply_top_k(s.top_k);
    case Rule::kTopP:
      return apply_top_p(s.top_p);
    case Rule::kMinP:
      return apply_min_p(s.min_p);
    case Rule::kTypical:
      return apply_typical(s.typical_p);
  }
}

void Sampler::process(std::span<float> logits, std::span<const int32_t> ids, const Sampling& s,
                      const History& history) {
  assert(history.empty() || history.window() == s.penalty_window);
  whole_ = ids.empty();
  logits_ = logits;
  if (!whole_) {
    ids_.assign(ids.begin(), ids.end());
    values_.assign(logits.begin(), logits.end());
  }
  constrain(s);
  for (const Rule rule : s.order) {
    if (is_set(rule, s) && (!s.greedy() || shapes_greedy(rule))) apply(rule, s, history);
  }
}

int Sampler::draw(const DrawKey& key) {
  // The temperature is already in the values: x * 1 + noise has the same bits on both ways, fused
  // or not.
  if (whole_)
    return tensor::kernels().gumbel_argmax(logits_.data(), int(logits_.size()), 1.0f, key);
  noise_.resize(ids_.size());
  tensor::kernels().gumbel(key, ids_.data(), int(ids_.size()), noise_.data());
  int index = -1;
  float highest = kMinusInfinity;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const float height = values_[i] + noise_[i];
    if (height > highest) {
      highest = height;
      index = int(i);
    }
  }
  return index;
}

std::vector<RankedToken> Sampler::rank(const Sampling& s, const DrawKey& key) {
  const tensor::Kernels& k = tensor::kernels();
  const std::span<const float> all = values();
  std::span<const float> heights = all;
  if (!s.greedy()) {
    noise_.resize(all.size());
    k.gumbel(key, whole_ ? nullptr : ids_.data(), int(all.size()), noise_.data());
    for (size_t i = 0; i < all.size(); ++i) noise_[i] = all[i] + noise_[i];
    heights = noise_;
  }
  std::vector<int> indices(std::min(size_t(s.ranked), all.size()));
  std::vector<float> highest(indices.size());
  const int found = k.top_k(heights.data(), int(heights.size()), int(indices.size()),
                            indices.data(), highest.data());
  const float lse =
      s.ranked_probabilities ? k.vocab_stats(all.data(), int(all.size()), 1.0f).lse : 0.0f;
  std::vector<RankedToken> ranked;
  for (int i = 0; i < found; ++i) {
    const float value = all[size_t(indices[size_t(i)])];
    if (!(value > kMinusInfinity)) break;
    ranked.push_back(
        {id(indices[size_t(i)]), highest[size_t(i)], s.ranked_probabilities ? value - lse : 0.0f});
  }
  return ranked;
}

Picked Sampler::pick(std::span<float> logits, const Sampling& s, const History& history,
                     const DrawKey& key, std::span<const int32_t> ids) {
  const tensor::Kernels& k = tensor::kernels();
  const auto log_probabilities = [&k](std::span<const float> x, int count, float lse,
                                      const auto& id_of) {
    std::vector<TokenLogProbability> top;
    std::vector<int> indices(size_t(std::min(count, int(x.size()))));
    std::vector<float> values(indices.size());
    const int found = indices.empty() ? 0
                                      : k.top_k(x.data(), int(x.size()), int(indices.size()),
                                                indices.data(), values.data());
    for (int i = 0; i < found; ++i) {
      if (values[size_t(i)] > kMinusInfinity) {
        top.push_back({id_of(indices[size_t(i)]), values[size_t(i)] - lse});
      }
    }
    return top;
  };

  Picked picked;
  const bool wants_logprobs = s.logprobs >= 0;
  assert(ids.empty() || (ids.size() == logits.size() && !wants_logprobs));
  if (wants_logprobs) raw_.assign(logits.begin(), logits.end());
  process(logits, ids, s, history);
  if (s.ranked > 0) picked.ranked = rank(s, key);
  if (!picked.ranked.empty() && !wants_logprobs) {  // the first of them is the draw
    picked.token = picked.ranked.front().token;
    return picked;
  }
  int index = s.greedy() ? best() : draw(key);
  if (index < 0 || !(values()[size_t(index)] > kMinusInfinity)) index = best();  // says why
  picked.token = id(index);
  if (!wants_logprobs) return picked;

  const float raw_lse = k.vocab_stats(raw_.data(), int(raw_.size()), 1.0f).lse;
  picked.raw_log_probability = raw_[size_t(picked.token)] - raw_lse;
  if (!s.processed_logprobs) {
    picked.top = log_probabilities(raw_, s.logprobs, raw_lse, [](int i) { return i; });
  }
  if (s.greedy()) {
    if (s.processed_logprobs && s.logprobs > 0) picked.top = {{picked.token, 0.0f}};
    return picked;
  }
  const float lse = k.vocab_stats(values().data(), int(values().size()), 1.0f).lse;
  picked.log_probability = values()[size_t(index)] - lse;
  if (s.processed_logprobs) {
    picked.top = log_probabilities(values(), s.logprobs, lse, [this](int i) { return id(i); });
  }
  return picked;
}

Distribution Sampler::distribution(std::span<float> logits, const Sampling& s,
                                   const History& history) {
  process(logits, {}, s, history);
  if (s.greedy()) return {{id(best())}, {1.0}};
  weigh();
  Distribution result;
  double total = 0;
  for (const float weight : weights_) total += double(weight);
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    result.ids.push_back(id(int(i)));
    result.probabilities.push_back(double(weights_[i]) / total);
  }
  return result;
}

}  // namespace tutti::engine
