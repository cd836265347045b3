// How one token of a request is picked, as a value: what plain decoding picks by after the tokens
// that stand, and what a drafter or a verifier picks by after tokens that may come to stand.
// Whoever picks at a position by the same rule picks from the same noise.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/philox.h"
#include "engine/rows.h"
#include "engine/sampling.h"

namespace tutti::decode {

// What may come next: a state of an automaton over tokens, for example a grammar's. States do not
// change, so that samples, drafts and threads share them.
class Constraint {
 public:
  virtual ~Constraint() = default;
  // Bit id % 64 of word id / 64, covering the vocabulary; an end token is in it where the text may
  // end. Not null.
  virtual std::shared_ptr<const std::vector<uint64_t>> allowed() const = 0;
  // The state after `token`; null when, and only when, the token is not allowed here. After an end
  // token any state that allows something.
  virtual std::shared_ptr<const Constraint> after(int32_t token) const = 0;
};

class PickRule {
 public:
  PickRule() = default;
  // `history` may be null: no penalties; `constraint`, too: all tokens. Throws Error(kUsage) when
  // the constraint's set and Sampling::allowed have different sizes.
  PickRule(engine::Sampling sampling, DrawKey key, std::shared_ptr<engine::History> history,
           std::shared_ptr<const Constraint> constraint);

  // A pick of the token that will stand at `position`.
  engine::Want want(int position) const;
  DrawKey key(int position) const;
  const engine::Sampling& sampling() const { return sampling_; }
  const engine::History* history() const { return history_.get(); }

  // Whether the constraint lets `token` come next.
  bool constrained() const { return constraint_ != nullptr; }
  bool allows(int32_t token) const { return !constraint_ || constraint_->after(token) != nullptr; }
  // Whether the allowed set leaves one of the tokens [0, vocabulary), and of `among` where that is
  // given: a bit each, as of Sampling::allowed. True where there is neither.
  bool leaves_some(int vocabulary, const std::vector<uint64_t>* among = nullptr) const;
  // The rule after `token`, which is allowed, came; this one stays as it is.
  PickRule after(int32_t token) const;
  // The same, in place. A plain copy of this rule shares its history; detached() is one that may
  // live on, or on another thread.
  void advance(int32_t token);
  PickRule detached() const;

 private:
  void constrain();

  engine::Sampling sampling_;
  DrawKey key_;
  std::shared_ptr<engine::History> history_;
  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<const std::vector<uint64_t>> always_allowed_;  // the request's own set
};

}  // namespace tutti::decode
