// A grammar as what may come next.
#pragma once

#include <memory>

#include "decode/pick_rule.h"
#include "text/grammar.h"
#include "text/grammar_source.h"

namespace tutti::decode {

// The state before any token. Requests, samples and threads may share it. Throws what the grammar
// has against itself.
std::shared_ptr<const Constraint> grammar_constraint(const text::GrammarSource& source,
                                                     std::shared_ptr<const text::TokenTree> tokens,
                                                     const text::GrammarLimits& limits = {});

// How many places of its grammar a constraint of the kind above and its successors have come to;
// they stay in memory. 0 for other kinds.
int places_kept(const Constraint& constraint);

}  // namespace tutti::decode
