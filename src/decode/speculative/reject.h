// Verification by rejection: the law of plain decoding, not its text. See engine/rejection.h for
// the tests themselves.
#pragma once

#include "decode/pick_rule.h"
#include "decode/speculative/tree.h"

namespace tutti::decode::speculative {

// rows_of a tree, each with its logits.
engine::Rows rows_for_rejection(const Tree& tree, const PickRule& rule, int position);

// Walks the tree by accept tests: siblings that were drawn (Tree::drawn_from) one after the other,
// an only child that was proposed as a draw from itself. The root stands at `position`; accept
// tests and residual draws take the noise of the position of the token that they decide. Throws
// Error(kUsage) for proposed siblings.
Accepted reject(const Tree& tree, const engine::Answer& answer, const PickRule& rule, int position);

}  // namespace tutti::decode::speculative
