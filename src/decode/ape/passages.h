// Passages between two parts of a prompt that are read side by side instead of one after the other:
// adaptive parallel encoding (APE, arXiv 2502.05431) and its ancestor, parallel context windows
// (PCW, arXiv 2212.10947). Each passage sees the shared prefix and itself, all start at the same
// position, and what comes behind sees them all. So a passage's keys and values do not depend on
// the others, and a store can keep them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace tutti::decode {

class ContextStore;

// How passages are read. kApe and kPcw are approximations of kSequential (exact for one passage at
// temperature and scale 1 behind a prefix); what they cost in quality: `tutti eval passages`.
enum class PassageMode : uint8_t {
  kApe,  // behind the prefix, seen at a temperature and with a scaled log-sum-exp
  kPcw,  // without the prefix, each behind a copy of the prompt's first token; ordinary attention
  kSequential,  // one after the other: an ordinary prompt
};
std::string_view name(PassageMode mode);
PassageMode parse_passage_mode(std::string_view name);  // throws Error(kUsage) that lists the names

struct Passages {
  PassageMode mode = PassageMode::kApe;
  std::vector<std::vector<int32_t>> tokens;  // of each passage alone, without special tokens
  int at = 0;  // they stand before this token of the prompt, behind the shared prefix
  // kApe. Scores against passages are divided by T; the passages' log-sum-exp is multiplied by S *
  // T before they are merged with the rest. (0, 10].
  float temperature = 0.9f;
  float scale = 0.9f;
  std::shared_ptr<ContextStore> store;  // null: nothing is kept

  bool parallel() const { return !tokens.empty() && mode != PassageMode::kSequential; }
  size_t longest() const;
  size_t total() const;
};

// Throws Error(kUsage) for what makes no sense with a prompt of `prompt_tokens`.
void validate(const Passages& passages, size_t prompt_tokens);

// The prompt with all passages in their place, one after the other.
std::vector<int32_t> sequential_prompt(std::span<const int32_t> prompt, const Passages& passages);

// The first positions that a prompt with `passages` (kApe or kPcw) takes before its own remaining
// tokens.
int positions_before(const Passages& passages);

// How many tokens of the prompt the Context of read_passages holds.
int prompt_tokens_held(const Passages& passages);

// A Context with the prefix and all passages, weighed; what is appended comes behind the longest of
// them. Passages that the store does not have are computed side by side and put there. kApe or
// kPcw.
Task<engine::Context> read_passages(engine::Engine& engine,
                                    std::shared_ptr<engine::Request> request,
                                    std::span<const int32_t> prompt, const Passages& passages,
                                    uint64_t salt = 0);

// What the tokens of an answer attended to while they were chosen, mean over them, layers and
// heads: where the answer comes from, as far as attention tells. Shares of all attention; what is
// left went to the query and the answer itself.
struct PassageMass {
  double prefix = 0;                          // of kPcw: none
  std::vector<double> passages;               // in their order
  std::vector<std::vector<double>> by_layer;  // [layers][1 + passages]: prefix first
};
// Computes prompt and answer once more. Any mode.
Task<PassageMass> passage_mass(engine::Engine& engine, std::shared_ptr<engine::Request> request,
                               std::vector<int32_t> prompt, const Passages& passages,
                               std::vector<int32_t> answer);

}  // namespace tutti::decode
