// How sure a guess of the next token is, as one of a few kinds: by how far the first choice leads
// over the second, or by how far another choice lies behind the first. Whoever guesses keeps a
// chance of being right for each kind.
#pragma once

namespace tutti::check {

// Of first choices; then of others.
inline constexpr int kLeadKinds = 6, kLagKinds = 5;
inline constexpr int kGuessKinds = kLeadKinds + kLagKinds;

// `heights`: logit, or logit + noise. Choice `rank` (0: the first) has height `own`, the first
// `first`, the second `second`.
int guess_kind(int rank, double first, double second, double own);

}  // namespace tutti::check
