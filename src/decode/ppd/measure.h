// What a tree is built from: how often prompt tokens are right on texts, and what forwards of how
// many rows cost on this machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "decode/ppd/prompt_tokens.h"
#include "decode/speculative/tree_builder.h"
#include "engine/engine.h"

namespace tutti::decode::ppd {

struct MeasuredText {
  std::vector<int32_t> tokens;
  int prompt = 0;  // of them, from the first: nothing is predicted there
};

struct Accuracy {
  std::vector<std::vector<uint64_t>>
      hits;              // [j][a]: candidate a of prompt j + 1 was the text's token
  uint64_t anchors = 0;  // tokens behind which prompt tokens stood
  speculative::AcceptanceTable table() const;
};

// Prompt tokens behind every token of the answer from which the text goes on far enough; their
// `ranks` likeliest tokens against the text's. `on_text` is called with the number of texts done.
Task<Accuracy> measure_accuracy(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                                const PromptTokens& prompts, const std::vector<MeasuredText>& texts,
                                int ranks, std::function<void(size_t)> on_text = {});

// Seconds of a forward by number of rows.
using RowTable = std::vector<std::pair<int, double>>;

// Forwards of `rows` rows that see `keys` slots of one Context and all take the head: the median of
// `rounds` each, sizes in turns, so that a machine that changes its pace changes it for all.
// Nothing else may run on the engine.
Task<RowTable> measure_rows(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                            int keys, std::vector<int> rows, int rounds);

// The nearest table that never falls (pool adjacent violators), on a line between its rows and
// beyond the last; for best_trees.
std::function<double(int)> rising(RowTable table);

}  // namespace tutti::decode::ppd
