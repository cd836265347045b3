// One forward, fully planned: what enters, where each row's keys and values go, what each row sees,
// and what is wanted back. The engine makes it from Contexts, Views and Rows; the network only
// executes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "models/linear_map.h"
#include "tensor/kernels.h"

namespace tutti::models {

// Where a row stands: time, height, width. The three are equal for text.
struct Position {
  int32_t t = 0, h = 0, w = 0;
  Position() = default;
  Position(int32_t p) : t(p), h(p), w(p) {}  // NOLINT: a text position is a number
  Position(int32_t t_, int32_t h_, int32_t w_) : t(t_), h(h_), w(w_) {}
  bool operator==(const Position&) const = default;
};

// The input of a row: one token, a free vector, a weighted mix of token embeddings, a linear map of
// another row's hidden state at the layer where this row enters, or the model's mask vector
// (Weights::mask).
struct RowInput {
  enum Kind : uint8_t { kToken, kVector, kMix, kFromRow, kMask } kind = kToken;
  int32_t token = 0;
  std::vector<float> vector;  // kVector: [hidden]
  std::vector<int32_t> ids;   // kMix, with weights of the same size
  std::vector<float> weights;
  int32_t row = -1;  // kFromRow: the source, a row of the same query (smaller index)
  std::shared_ptr<const LinearMap> map;  // kFromRow; null: the state itself
};

// The layers [enter, leave) that a row runs through. enter == number of layers: head only. A row
// that leaves early keeps its state; head and hidden wants read that state.
struct LayerRange {
  int enter = 0;
  int leave = INT32_MAX;
};

// A row's visible slots: count runs of Batch::runs from `first`, in View order.
struct RunSpan {
  int first = 0;
  int count = 0;
  int keys = 0;       // slots in the runs
  int first_key = 0;  // its first of Batch::key_places, where there are any
};

// Where a visible key stands.
struct KeyPlace {
  int32_t position = 0;
  int32_t segment = 0;
};

// How much of `row`'s attention goes to each of some ranges of slots, mean over heads, to out[layer
// * ranges + range]. The row runs through all layers; Epoch::mass_* holds its ranges' runs.
struct MassWant {
  int row = 0;
  int ranges = 0;
  float* out = nullptr;
};

// Layers [first_layer, last_layer) in which the same rows are active and see the same slots. `full`
// and `sliding` hold one entry per active row: what it sees on full and on sliding-window layers.
struct Epoch {
  int first_layer = 0;
  int last_layer = 0;
  std::vector<int> rows;  // active rows, ascending
  std::vector<RunSpan> full;
  std::vector<RunSpan> sliding;  // empty when the model has no sliding layers
  std::vector<RunSpan> mass_full,
      mass_sliding;  // likewise of each range of each of Batch::mass, in order
};

// The hidden state of `row` at the input of `layer` (number of layers: after the last one), to
// out[hidden].
struct HiddenWant {
  int row = 0;
  int layer = 0;
  float* out = nullptr;
};

// Worker `worker` has the logits [Config::head_rows] of head row `index` (into Batch::head_rows),
// which may be changed. Calls of different workers run at the same time. It must not throw.
using LogitsConsumer = std::function<void(int worker, int index, std::span<float> logits)>;

struct Batch {
  struct Slot {
    int32_t page = 0;
    int32_t slot = 0;
  };

  std::vector<RowInput> inputs;  // one per row; the other per-row vectors have the same size
  std::vector<Position> positions;
  std::vector<int32_t>
      segments;  // learned segment vector added to k and v; ignored by models without
  std::vector<LayerRange> active;
  std::vector<Slot> slots;  // where the row's keys and values go
  std::vector<tensor::KvRun> runs;
  std::vector<KeyPlace>
      key_places;  // of every span's keys in View order, in networks with relative positions
  std::vector<Epoch> epochs;  // ascending, covering [0, layers)
  std::vector<int> head_rows;
  std::vector<HiddenWant> hidden;
  std::vector<MassWant> mass;
  tensor::SoftmaxClass classes[tensor::kMaxSoftmaxClasses];  // when every row uses the same table
  std::vector<std::vector<tensor::SoftmaxClass>>
      row_classes;  // per row, or empty: `classes` for all

  int rows() const { return int(inputs.size()); }
};

// Pages of keys and values, by id.
struct KvMemory {
  tensor::KvLayout layout;
  std::byte* const* pages = nullptr;
};

}  // namespace tutti::models
