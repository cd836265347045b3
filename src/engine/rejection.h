// Speculative decoding by rejection: the text has exactly the target's law whatever the draft
// proposes, but not the tokens that plain decoding with the same seed would give ("lossless in
// law"; sample-then-match with shared noise is the method whose text is equal). Sources: Leviathan,
// Kalman, Matias 2023 and Chen et al. 2023 for chains; Miao et al. 2024 (SpecInfer) and Jeon et al.
// 2024 for siblings drawn without replacement.
//
// Pure functions of their arguments. Accept tests draw from Purpose::kAcceptTest, emitted tokens
// from Purpose::kResidualSample at the token's own position; key.purpose is ignored. Drafts must
// not be drawn from these two streams. Distributions are those after processing, each evaluated on
// its own hypothetical prefix.
#pragma once

#include <cstdint>
#include <span>

#include "base/philox.h"
#include "engine/sampling.h"

namespace tutti::engine {

// All mass on one token: the draft distribution of a token that was proposed, not drawn.
Distribution one_hot(int32_t token);

// norm(max(p - q, 0)), or p itself when nothing is left (p and q are numerically equal).
Distribution residual(const Distribution& p, const Distribution& q);

// Inverse CDF in ascending token id, u in [0, 1). The probabilities need not add up to 1.
int32_t draw_at(const Distribution& p, double u);

struct ChainVerdict {
  int accepted = 0;    // draft tokens kept
  int32_t token = -1;  // emitted after them; always there
};

// A chain x_0..x_{n-1}, x_i drawn from q[i] after x_0..x_{i-1}; p has n + 1 distributions, p[n]
// after the whole chain. key.position is that of x_0. Throws Error(kUsage) when the sizes do not
// fit or q[i] lacks x_i.
ChainVerdict reject_chain_in_law(std::span<const int32_t> chain, std::span<const Distribution> q,
                                 std::span<const Distribution> p, const DrawKey& key);

struct SiblingsVerdict {
  int child = -1;      // index of the accepted sibling, or -1
  int32_t token = -1;  // the accepted sibling's token, or the one emitted instead
};

// Siblings c_0..c_{k-1}, all children of one node: drawn without replacement from q, in this order.
// A tree is walked node by node: when a child is accepted go on there, with that node's p and q and
// position + 1; when none is, `token` ends the step. Throws Error(kUsage) for a sibling that q
// cannot have given (repeated, or without mass).
SiblingsVerdict reject_siblings_in_law(std::span<const int32_t> siblings, const Distribution& q,
                                       const Distribution& p, const DrawKey& key);

}  // namespace tutti::engine
