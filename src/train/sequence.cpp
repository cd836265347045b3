#include "train/sequence.h"

#include <algorithm>
#include <numeric>

namespace tutti::train {
namespace {

using tensor::kPageSlots;

// The part of a range at positions above `lowest`; positions ascend within a range.
RowRange within_window(const Sequence& s, RowRange range, int64_t lowest) {
  while (range.count > 0 && s.positions[size_t(range.first)] <= lowest) {
    ++range.first;
    --range.count;
  }
  return range;
}

// Appends a range of slots, cut at pages.
void append_runs(std::vector<tensor::KvRun>& runs, int first, int count) {
  while (count > 0) {
    const int in_page = first % kPageSlots, part = std::min(count, kPageSlots - in_page);
    runs.push_back({first / kPageSlots, uint8_t(in_page), uint8_t(part), 0});
    first += part;
    count -= part;
  }
}

models::RunSpan span_of(models::Batch& batch, const Sequence& s, int base, int row, int64_t lowest,
                        bool places) {
  models::RunSpan span;
  span.first = int(batch.runs.size());
  span.first_key = int(batch.key_places.size());
  for (const RowRange& whole : visible(s, row)) {
    const RowRange range = within_window(s, whole, lowest);
    append_runs(batch.runs, base + range.first, range.count);
    span.keys += range.count;
    for (int i = 0; places && i < range.count; ++i)
      batch.key_places.push_back({s.positions[size_t(range.first + i)], 0});
  }
  span.count = int(batch.runs.size()) - span.first;
  return span;
}

}  // namespace

std::vector<RowRange> visible(const Sequence& s, int row) {
  const int n = s.rows(), half = n / 2;
  std::vector<RowRange> out;
  const auto add = [&](int first, int count) {
    if (count > 0) out.push_back({first, count});
  };
  switch (s.sight) {
    case Sight::kCausal:
      add(0, row + 1);
      break;
    case Sight::kFull:
      add(0, n);
      break;
    case Sight::kBlockCausal:
      add(0, std::min(n, (row / s.block + 1) * s.block));
      break;
    case Sight::kAnchored: {
      const int text = n - int(s.anchors.size()) * s.ahead, chained = row - text;
      if (chained < 0) {
        add(0, row + 1);
        break;
      }
      add(0, s.anchors[size_t(chained / s.ahead)] + 1);
      add(text + chained / s.ahead * s.ahead, chained % s.ahead + 1);
      break;
    }
    case Sight::kOrder: {
      const int contents = int(s.ranks.size());
      const bool query = row >= contents;
      const int own = query ? s.queries[size_t(row - contents)] : row;
      const int rank = s.ranks[size_t(own)];
      for (int i = 0; i < contents; ++i) {
        const bool seen = s.ranks[size_t(i)] < std::max(rank, rank < s.given ? s.given : 0) ||
                          (i == own && !query);
        if (!seen) continue;
        if (!out.empty() && out.back().first + out.back().count == i) {
          ++out.back().count;
        } else {
          add(i, 1);
        }
      }
      break;
    }
    case Sight::kBlockDiffusion: {
      const bool clean = row >= half;
      const int start = (row - (clean ? half : 0)) / s.block * s.block,
                end = std::min(half, start + s.block);
      if (!clean) add(start, end - start);
      add(half, clean ? end : start);
      break;
    }
  }
  return out;
}

Sequence plain_sequence(const models::Config& config, std::vector<int32_t> tokens) {
  Sequence s;
  s.positions.resize(tokens.size());
  std::iota(s.positions.begin(), s.positions.end(), 0);
  s.tokens = std::move(tokens);
  switch (config.attention) {
    case models::AttentionKind::kBidirectional:
      s.sight = Sight::kFull;
      break;
    case models::AttentionKind::kBlockCausal:
      s.sight = Sight::kBlockCausal;
      s.block = config.attention_block;
      break;
    default:
      s.sight = Sight::kCausal;
  }
  return s;
}

void add_chains(Sequence& text, std::vector<int> anchors, int ahead) {
  text.sight = Sight::kAnchored;
  text.ahead = ahead;
  for (const int anchor : anchors) {
    for (int i = 1; i <= ahead; ++i) {
      text.tokens.push_back(-1);
      text.positions.push_back(text.positions[size_t(anchor)] + i);
    }
  }
  text.anchors = std::move(anchors);
}

models::Batch plan_batch(const models::Config& config, std::span<const Sequence> sequences) {
  models::Batch batch;
  models::Epoch epoch;
  epoch.last_layer = config.layers;
  int base = 0;
  for (const Sequence& s : sequences) {
    for (int row = 0; row < s.rows(); ++row) {
      const int slot = base + row;
      models::RowInput input;
      input.token = s.tokens[size_t(row)];
      if (s.sight == Sight::kOrder && row >= int(s.ranks.size()))
        input.kind = models::RowInput::kMask;
      if (s.sight == Sight::kAnchored && input.token < 0) input.kind = models::RowInput::kVector;
      batch.inputs.push_back(std::move(input));
      batch.positions.emplace_back(s.positions[size_t(row)]);
      batch.segments.push_back(0);
      batch.active.push_back({0, config.layers});
      batch.slots.push_back({slot / kPageSlots, slot % kPageSlots});
      epoch.rows.push_back(slot);
      epoch.full.push_back(span_of(batch, s, base, row, INT32_MIN, config.relative));
      if (!config.sliding.empty()) {
        const int64_t lowest = int64_t(s.positions[size_t(row)]) - config.window;
        epoch.sliding.push_back(span_of(batch, s, base, row, lowest, false));
      }
    }
    base += s.rows();
  }
  batch.epochs.push_back(std::move(epoch));
  return batch;
}

models::Batch part_of(const models::Batch& whole, std::span<const int> rows) {
  models::Batch part;
  part.runs = whole.runs;
  part.key_places = whole.key_places;
  const models::Epoch& all = whole.epochs.front();
  models::Epoch epoch;
  epoch.first_layer = all.first_layer;
  epoch.last_layer = all.last_layer;
  for (const int row : rows) {
    const size_t r = size_t(row);
    epoch.rows.push_back(part.rows());
    part.inputs.push_back(whole.inputs[r]);
    part.positions.push_back(whole.positions[r]);
    part.segments.push_back(whole.segments[r]);
    part.active.push_back(whole.active[r]);
    part.slots.push_back(whole.slots[r]);
    epoch.full.push_back(all.full[r]);
    if (!all.sliding.empty()) epoch.sliding.push_back(all.sliding[r]);
  }
  part.epochs.push_back(std::move(epoch));
  return part;
}

}  // namespace tutti::train
