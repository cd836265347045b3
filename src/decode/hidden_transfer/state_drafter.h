// What methods share that guess from states of the verified rows: options, guesses as levels, the
// tree of them, and what was learnt about their chances.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "decode/method.h"
#include "decode/speculative/acceptance.h"
#include "decode/speculative/level_tree.h"
#include "decode/speculative/speculate.h"
#include "train/transfer_maps.h"

namespace tutti::decode::speculative {

class StateDrafter : public Drafter {
 public:
  // Reads the maps that option `maps` names. Throws what reading them does, and Error(kUsage).
  StateDrafter(Generation& g, train::TransferMaps::Kind kind);

  Experience* experience() final { return &experience_; }
  bool carries() const final { return true; }
  Carried carried(const Pace& pace) final;
  Task<Tree> draft(engine::Context& context, const Pace& pace, int depth) final;
  void learn(const Tree& tree, const Accepted& accepted) final;

 protected:
  // Offset o (from 0) guesses the token o + 1 places after the next root. How many offsets can
  // still be of use when `more` tokens stand that do not now.
  int useful_offsets(int more) const { return std::clamp(g_.room() - more - 1, 0, offsets_); }
  // Of the token at `position`: the best by the request's rules, ranked. What a constraint allows
  // there is not known yet.
  engine::Want guess(int position) const;
  // The guesses of an offset, for the next draft.
  void set_level(int offset, const engine::RowAnswer& answer);
  // The same of offsets 0, 1, … from what their rows' last states are ([hidden] each), by the norm
  // and the head in a forward of their own, once the text goes on.
  Task<void> guess_from(engine::Context& context, std::vector<std::vector<float>> states);

  // What a forward carries that guesses for the next.
  virtual Carried guessing() const = 0;
  bool carrying() const { return carrying_; }

  Generation& g_;
  std::shared_ptr<const train::TransferMaps> maps_;
  int offsets_;

 private:
  int kind(int offset, int guess_kind) const;
  std::vector<double> typical_reaches() const;

  int nodes_, branches_;
  bool noise_;
  std::optional<std::vector<std::vector<int>>> paths_;  // a tree that does not change
  Experience& experience_;
  Acceptance acceptance_;
  std::vector<Level> levels_;  // for the next draft; empty: none
  bool carrying_ = false;
};

// The options that all have.
std::vector<MethodOption> state_options();

}  // namespace tutti::decode::speculative
