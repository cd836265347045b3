#include "train/anchored.h"

#include <algorithm>
#include <numeric>

#include "base/draws.h"

namespace tutti::train {

std::vector<int> draw_anchors(const Example& e, int ahead, int most, uint64_t seed,
                              uint64_t number) {
  const int first = std::max(e.prompt - 1, 0), end = int(e.tokens.size()) - 1 - ahead;
  if (end <= first) return {};
  std::vector<int> anchors(size_t(end - first));
  std::iota(anchors.begin(), anchors.end(), first);
  DrawKey key;
  key.seed = seed;
  key.purpose = Purpose::kTrainingNoise;
  key.path = uint32_t(number >> 32);
  key.position = uint32_t(number);
  Draws(key).shuffle(anchors);
  anchors.resize(std::min(anchors.size(), size_t(most)));
  std::ranges::sort(anchors);
  return anchors;
}

LossSequence anchored(const LossOptions& o, const models::Config& config, const Example& e,
                      uint64_t seed, uint64_t number) {
  LossSequence s;
  s.sequence = plain_sequence(config, e.tokens);
  add_chains(s.sequence, draw_anchors(e, o.ahead, o.anchors, seed, number), o.ahead);
  int row = int(e.tokens.size());
  for (const int anchor : s.sequence.anchors) {
    double weight = 1;
    for (int i = 1; i <= o.ahead; ++i, weight *= o.decay) {
      s.predicted.push_back(row++);
      s.targets.push_back(e.tokens[size_t(anchor + i + 1)]);
      s.weights.push_back(weight);
    }
  }
  return s;
}

void divide_by_predictions(std::span<LossSequence> sequences) {
  size_t predictions = 0;
  for (const LossSequence& s : sequences) predictions += s.predicted.size();
  for (LossSequence& s : sequences) {
    for (double& w : s.weights) w /= double(predictions);
  }
}

std::vector<int> teachers(const LossSequence& s) {
  std::vector<int> rows;
  for (const int anchor : s.sequence.anchors) {
    for (int i = 1; i <= s.sequence.ahead; ++i) rows.push_back(anchor + i);
  }
  return rows;
}

AnchoredParts split_anchored(const models::Config& config,
                             std::span<const LossSequence> sequences) {
  AnchoredParts parts;
  std::vector<Sequence> all;
  std::vector<int> texts, chains;
  int base = 0;
  for (const LossSequence& s : sequences) {
    const int text = s.sequence.rows() - int(s.predicted.size()), first = int(texts.size());
    for (const int anchor : s.sequence.anchors) parts.anchors.push_back(first + anchor);
    for (const int row : teachers(s)) parts.taught_by.push_back(first + row);
    for (int row = 0; row < s.sequence.rows(); ++row)
      (row < text ? texts : chains).push_back(base + row);
    all.push_back(s.sequence);
    base += s.sequence.rows();
  }
  const models::Batch whole = plan_batch(config, all);
  parts.texts = part_of(whole, texts);
  parts.chains = part_of(whole, chains);
  parts.pages = (base + tensor::kPageSlots - 1) / tensor::kPageSlots;
  return parts;
}

}  // namespace tutti::train
