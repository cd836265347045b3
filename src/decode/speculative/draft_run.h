// Drafting with a model: forwards of a few rows that grow a tree, level by level, as long as it
// pays.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "decode/pick_rule.h"
#include "decode/speculative/acceptance.h"
#include "decode/speculative/tree.h"
#include "engine/engine.h"

namespace tutti::decode::speculative {

// The noise that drafts are ranked with.
enum class DraftNoise : uint8_t {
  kTarget,  // that of the target's own pick at the position: draft and target agree whenever their
            // logits nearly do
  kNone,    // the likeliest tokens
  kOwn,     // draws from the draft's own distribution, as rejection wants them
};

// What one run is to do. A value: it goes to the draft model's thread.
struct DraftOrder {
  DraftOrder() = default;
  std::vector<int32_t> tokens;  // that the Context does not hold yet; the last is the tree's root
  PickRule rule;                // of the token after the root, its history its own
  int position = 0;             // where the token after the root will stand, for the noise
  int depth = 1;                // levels at most
  int branches = 1;             // nodes of a level at most
  double p_min = 0;             // a draft whose probability is less ends its path
  DraftNoise noise = DraftNoise::kTarget;
  bool distributions = false;  // Tree::drawn_from, for rejection
  int vocabulary = 0;          // ids from here on cannot be drafted
  // DraftModel::head_tokens: others cannot be drafted either.
  std::shared_ptr<const std::vector<uint64_t>> head_tokens;
  models::LayerRange layers;  // early exit: the layers that draft
  std::vector<int32_t> ends;  // tokens that end a path
  // The least expected reach of a draft after n others for which another forward pays; the last
  // holds from there on.
  std::vector<double> least_reach{0};
  std::vector<double> acceptance;  // by kind
};

struct DraftResult {
  DraftResult() = default;
  Tree tree;
  int forwards = 0;
  // Appended to the Context beyond `tokens`: the drafts of a chain but the last.
  int fed = 0;
  // On the clock of whoever drafted.
  std::chrono::steady_clock::time_point began, ended;
};

// Kinds of drafts: by how far the first choice leads, others by how far they lie behind; and any
// first choice.
std::vector<double> expected_acceptance();
int any_first_choice();

// Runs on `engine`'s thread. Afterwards `context` holds what it held, order.tokens, and of a chain
// the drafts that were fed; of a tree nothing more.
Task<DraftResult> run_draft(engine::Engine& engine, engine::Context& context, DraftOrder order);

}  // namespace tutti::decode::speculative
