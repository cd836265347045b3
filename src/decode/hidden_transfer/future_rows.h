// The rows of Hidden Transfer beside the rows of a tree: for one token ahead each, a linear map of
// the state that a verified row has at some layer. They see what that row sees, itself, and each
// other in order; nobody else sees them, and they are written nowhere.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "decode/speculative/tree.h"
#include "models/linear_map.h"
#include "train/transfer_maps.h"

namespace tutti::decode::speculative {

// Maps as the engine takes them.
struct FutureMaps {
  explicit FutureMaps(const train::TransferMaps& maps);

  std::vector<std::shared_ptr<const models::LinearMap>> maps;  // one per offset
  std::vector<int> enter;
  int leave = 0;  // number of layers; where rows go straight to the head, each leaves as it enters
  bool refined = true, see_previous = true;
};

// One of them: of which node, for which offset (0: the token after the next), among which rows.
struct FutureRow {
  int node = 0, offset = 0, row = 0;
};

// Appends to `rows`, which begins with rows_of(tree), the root at `position`, those of `node` for
// offsets [0, count). `want` is called with the offset and the position of the token that the row
// guesses.
void add_future_rows(engine::Rows& rows, const Tree& tree, int position, int node, int count,
                     const FutureMaps& maps,
                     const std::function<engine::Want(int offset, int position)>& want,
                     std::vector<FutureRow>& added);

// The nodes, ascending, at which the text is likeliest to leave the tree: at most `count`.
std::vector<int> likeliest_ends(const Tree& tree, int count);

}  // namespace tutti::decode::speculative
