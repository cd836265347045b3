// Sequences of a training step and what their rows see, as the Batch that every network runs: the
// same runs of slots that the engine makes of Views. No mask is ever written as a matrix here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/batch.h"
#include "models/config.h"

namespace tutti::train {

enum class Sight : uint8_t {
  kCausal,          // itself and what is before it
  kFull,            // everything
  kBlockCausal,     // its block and the blocks before
  kBlockDiffusion,  // rows [x_t | x_0] of n tokens each: a row of x_t sees its block of x_t and the
                    // blocks before of x_0, a row of x_0 its block of x_0 and the blocks before
  kAnchored,        // a causal text and, behind it, chains of rows: see Sequence::anchors
  kOrder,           // XLNet's two streams, n content rows and then query rows: see Sequence::ranks
};

struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  Sight sight = Sight::kCausal;
  int block = 1;  // of the two with blocks
  // Of kAnchored: rows of the text, ascending. Behind the text stands a chain of `ahead` rows for
  // each, in their order: a row of it sees the text up to the anchor, its chain up to itself, and
  // nobody else's. Their tokens are -1, as vectors stand for them, and their positions go on from
  // the anchor's.
  std::vector<int> anchors;
  int ahead = 0;
  // Of kOrder: the rank of each content row. A row sees the content of lower ranks, a content row
  // itself too; those of the ranks below `given` see each other whatever their order.
  std::vector<int> ranks;
  int given = 0;
  std::vector<int> queries;  // the content rows that the query rows predict; their tokens are -1

  int rows() const { return int(tokens.size()); }
};

struct RowRange {
  int first, count;
  bool operator==(const RowRange&) const = default;
};

// The rows that row `row` sees, ascending, empty ranges left out.
std::vector<RowRange> visible(const Sequence& sequence, int row);

// How a model of this configuration sees a sequence of plain text.
Sequence plain_sequence(const models::Config& config, std::vector<int32_t> tokens);

// Appends the chains of `ahead` rows behind these rows of a causal text.
void add_chains(Sequence& text, std::vector<int> anchors, int ahead);

// One forward of all sequences, one after the other, each seeing only itself. The network keeps
// nothing of it.
models::Batch plan_batch(const models::Config& config, std::span<const Sequence> sequences);

// These rows of such a batch, ascending, as a forward of their own: what they see of the other rows
// must be in its cache. Without rows for the head.
models::Batch part_of(const models::Batch& whole, std::span<const int> rows);

}  // namespace tutti::train
