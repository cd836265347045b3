#include "decode/grammar_constraint.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"

namespace tutti::decode {
namespace {

// What all states of a grammar share: its machine keeps the places it has been to.
struct Machine {
  Machine(const text::GrammarRules& rules, std::shared_ptr<const text::TokenTree> tokens,
          const text::GrammarLimits& limits)
      : grammar(rules, std::move(tokens), limits) {}
  std::mutex mutex;  // a draft model walks it on another thread
  text::Grammar grammar;
};

class GrammarConstraint final : public Constraint {
 public:
  GrammarConstraint(std::shared_ptr<Machine> machine, text::Grammar::State state)
      : machine_(std::move(machine)), state_(state) {}

  std::shared_ptr<const std::vector<uint64_t>> allowed() const override {
    const std::lock_guard lock(machine_->mutex);
    return machine_->grammar.allowed(state_);
  }

  std::shared_ptr<const Constraint> after(int32_t token) const override {
    const std::lock_guard lock(machine_->mutex);
    text::Grammar& grammar = machine_->grammar;
    const auto mask = grammar.allowed(state_);
    if (!((*mask)[size_t(token) / 64] >> (token % 64) & 1)) return nullptr;
    const auto& ends = grammar.tokens().ends();
    const bool end = std::ranges::find(ends, token) != ends.end();
    // Behind an end token nobody writes.
    return std::make_shared<GrammarConstraint>(machine_,
                                               end ? state_ : grammar.advance(state_, token));
  }

  int places() const {
    const std::lock_guard lock(machine_->mutex);
    return machine_->grammar.states();
  }

 private:
  std::shared_ptr<Machine> machine_;
  text::Grammar::State state_;
};

}  // namespace

std::shared_ptr<const Constraint> grammar_constraint(const text::GrammarSource& source,
                                                     std::shared_ptr<const text::TokenTree> tokens,
                                                     const text::GrammarLimits& limits) {
  auto machine = std::make_shared<Machine>(text::rules_of(source), std::move(tokens), limits);
  const text::Grammar::State start = machine->grammar.start();
  if (start == text::Grammar::kNowhere)
    throw Error(ErrorKind::kUsage, "grammar: holds no text at all; change it");
  return std::make_shared<GrammarConstraint>(std::move(machine), start);
}

int places_kept(const Constraint& constraint) {
  const auto* grammar = dynamic_cast<const GrammarConstraint*>(&constraint);
  return grammar ? grammar->places() : 0;
}

}  // namespace tutti::decode
