// Draft, verify, keep: the loop of every method whose drafts are tokens. With verification by match
// the text is that of plain decoding, token for token, at any temperature: each pick takes the
// noise of its position.
#pragma once

#include "decode/generation.h"
#include "decode/speculative/pace.h"
#include "decode/speculative/tree.h"

namespace tutti::decode::speculative {

enum class Verification : uint8_t {
  kMatch,      // sample, then compare: the text of plain decoding
  kRejection,  // accept tests on the two distributions: the law of plain decoding
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // What requests that draft like this one have learnt together; null: nothing is shared.
  virtual Experience* experience() { return nullptr; }
  // Whether drafting takes no forward, so that it is done where no draft will pay, too.
  virtual bool free() const { return false; }
  // Drafts after the last token, at most `depth` >= 1 of them one after the other; the tree's root
  // is that token. Pace says what pays. `context` holds all tokens but the last and is as it was
  // afterwards.
  virtual Task<Tree> draft(engine::Context& context, const Pace& pace, int depth) = 0;
  // For drafters that guess from the model's own states, whose drafts no others' decision counts.
  virtual bool carries() const { return false; }
  // Of these, at the beginning of a step: rows that its forward carries beside those of the tree.
  virtual Carried carried(const Pace& /*pace*/) { return {}; }
  // Before the forward that verifies `tree`:
  // its rows are rows.rows[0, tree.size()), the root's at `position`. Rows may be added behind them
  // that write nothing, and more may be wanted of the tree's.
  virtual void add_rows(const Tree& /*tree*/, int /*position*/, engine::Rows& /*rows*/) {}
  // After it, once its tokens were emitted and the text goes on: what all these rows answered.
  virtual Task<void> read_answer(engine::Context& /*context*/, const Tree& /*tree*/,
                                 const Accepted& /*accepted*/, engine::Answer /*answer*/) {
    co_return;
  }
  // What came of it, once the tokens were emitted. Of a drafter that is free also what would have
  // come of its likeliest draft, when none was put down.
  virtual void learn(const Tree& tree, const Accepted& accepted) = 0;
};

// The end of a step: leaves in `context` what stands of the rows from slot `base` on, one per node
// of `tree`, emits the picks and counts; `rows` were put down in all.
void settle(Generation& g, engine::Context& context, int base, int rows, const Tree& tree,
            const Accepted& accepted);

// One forward: verifies `tree`, leaves what stands in `context`, emits the picks and counts. Rows
// of `drafter`, when given, go with it.
Task<Accepted> verify(Generation& g, engine::Context& context, const Tree& tree,
                      Verification verification, Drafter* drafter = nullptr);

// The whole request. `adaptive`: drafts only as far as Pace finds that they pay.
Task<void> speculate(Generation& g, Drafter& drafter, Verification verification, bool adaptive);

// The options that every such method has: verify, adaptive.
Verification verification_option(const Generation& g);
bool adaptive_option(const Generation& g);
// Throws Error(kUsage) when verification is by rejection and `option` is not `only`.
void refuse_for_rejection(const Generation& g, std::string_view option, std::string_view only);

}  // namespace tutti::decode::speculative
