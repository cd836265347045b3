// What a program asks of the engine: rows to push through the model against a Context, each with
// its input, position, view, and what is wanted back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/philox.h"
#include "engine/sampling.h"
#include "models/batch.h"

namespace tutti::engine {

using models::LayerRange;
using models::Position;
using models::RowInput;

// A piece of what a row sees. Order matters: sums run over visible keys in View order.
struct Segment {
  enum Of : uint8_t {
    kSlots,  // slots [first, first + count) of the row's Context, as they were before this query
    kFreshRows,    // rows [first, first + count) of this query, with the keys and values of this
                   // forward
    kModelPrefix,  // the model's prefix number `first` (Engine::add_prefix), whole; count is
                   // ignored
  } of = kSlots;
  int first = 0;
  int count = -1;       // -1: to the end
  bool causal = false;  // kFreshRows: only rows up to the seeing one
  uint8_t softmax_class = 0;

  static Segment slots(int first = 0, int count = -1, uint8_t softmax_class = 0) {
    return {kSlots, first, count, false, softmax_class};
  }
  static Segment fresh(int first = 0, int count = -1, bool causal = false,
                       uint8_t softmax_class = 0) {
    return {kFreshRows, first, count, causal, softmax_class};
  }
  static Segment prefix(int index, uint8_t softmax_class = 0) {
    return {kModelPrefix, index, -1, false, softmax_class};
  }
};

inline bool ordinary(const tensor::SoftmaxClass& softmax) {
  return softmax == tensor::SoftmaxClass{};
}
// Whether softmax class 0, which causal rows use, is ordinary attention.
inline bool ordinary(const std::vector<tensor::SoftmaxClass>& classes) {
  return classes.empty() || ordinary(classes[0]);
}

// A slot or row named twice weighs twice. A row's own keys stand where the first kFreshRows segment
// that covers them has them, else last and in class 0; with sees_self = false nowhere.
using View = std::vector<Segment>;
using ViewId = int;
inline constexpr ViewId kCausalView =
    -1;  // all slots of the Context, then the fresh rows up to this one

// Where a row's keys and values stay after the forward.
struct Write {
  enum To : uint8_t { kNone, kAppend, kSlot } to = kAppend;
  // kSlot: replaces this slot of the Context, on all layers, once the forward is over; of two rows
  // the later wins
  int slot = 0;

  static Write none() { return {kNone, 0}; }
  static Write append() { return {kAppend, 0}; }
  static Write at(int slot) { return {kSlot, slot}; }
};

// What is wanted of one row. Several may be asked for at once.
struct Want {
  bool pick = false;  // a token by the sampling rules
  Sampling sampling;
  std::shared_ptr<const History> history;  // for penalties; null: none
  DrawKey key;
  int top_k = 0;            // the k largest logits
  bool stats = false;       // max, margin, entropy, log-sum-exp
  std::vector<int32_t> at;  // the logits of these ids
  bool logits = false;      // the whole row
  // States at the input of these layers (number of layers: after the last): before a row enters,
  // its input's embedding (kFromRow has none); after it left, the state that it left with.
  std::vector<int> hidden;
  // The share of this row's attention that goes to slots [first, first + count) of its Context, as
  // they were before the tick, of what its View lets it see by class 0. For a row that runs through
  // all layers.
  struct SlotRange {
    int first = 0;
    int count = 0;
  };
  std::vector<SlotRange> mass;
  // Guidance: this row's logits become sum of weight * logits over the rows named (part, row),
  // itself included only if named. Every named row must want something of its own logits in the
  // same query, which is not splittable.
  struct MixTerm {
    int part = 0;
    int row = 0;
    float weight = 1.0f;
  };
  std::vector<MixTerm> mix;

  bool needs_head() const { return pick || top_k > 0 || stats || !at.empty() || logits; }
  bool anything() const { return needs_head() || !hidden.empty() || !mass.empty(); }
};

struct Row {
  RowInput in;
  Position position;
  int segment_id = 0;
  LayerRange active;
  ViewId view = kCausalView;
  bool sees_self = true;
  Write write;
  std::optional<Want> want;

  Row() = default;
  Row(int32_t token, Position p) : position(p) { in.token = token; }
};

// The rows of one part of a query. Constructed, never aggregate: g++ 12.2 destroys aggregate
// temporaries twice in co_await expressions.
struct Rows {
  std::vector<Row> rows;
  std::vector<View> views;
  // Softmax classes that the views name; class 0 is {1, 1} unless given. Empty: those of the
  // Context (weigh).
  std::vector<tensor::SoftmaxClass> classes;
  // A causal append that the engine may cut over several ticks. Otherwise all rows go in one tick.
  bool splittable = false;

  Rows() = default;
  ViewId add_view(View view) {
    views.push_back(std::move(view));
    return int(views.size()) - 1;
  }
  // A causal run of tokens from `position`; only the last row wants something.
  static Rows append(std::span<const int32_t> tokens, int position, std::optional<Want> want_last);
};

struct RowAnswer {
  Picked picked;
  tensor::VocabStats stats;
  std::vector<std::pair<int32_t, float>> top;  // id, logit, descending
  std::vector<float> at;                       // in the order of Want::at
  std::vector<float> logits;
  std::vector<std::vector<float>> hidden;  // in the order of Want::hidden
  std::vector<std::vector<float>> mass;    // [layers][Want::mass]: mean over heads, in [0, 1]
};

// One entry per row; empty entries for rows that wanted nothing.
struct Answer {
  std::vector<RowAnswer> rows;
  Answer() = default;
};

}  // namespace tutti::engine
