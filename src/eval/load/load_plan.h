// The requests of a load: drawn from a seed, or read from a file.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "eval/load/load.h"
#include "eval/traffic/trace.h"

namespace tutti::eval {

// What all requests of a load have in common.
struct LoadForm {
  bool chat = true;  // else completions
  bool stream = true;
  std::string model;
  double temperature = 0;
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();  // merged into every body

  LoadForm() = default;
};

struct LoadPlanOptions {
  ArrivalOptions arrivals;       // a prompt's tokens are words, or tokens where they are counted
  int shared_prefix_tokens = 0;  // with which every prompt begins
  int prefixes = 1;              // different ones; each prompt has one of them

  LoadPlanOptions() = default;
};

// Tokens of a text; empty function: nobody counts, a word is taken for one.
using CountTokens = std::function<int(const std::string& text)>;

// Prompts of common words by the seed's draws: the same everywhere where tokens are counted alike.
// Throws Error(kUsage).
std::vector<LoadRequest> make_load(const LoadPlanOptions& options, const LoadForm& form,
                                   const CountTokens& count);

// One JSON object a line: "prompt" (text) or, of chats, "messages"; as wanted "output_tokens",
// "ignore_eos", "arrival" (seconds), "cancel_after", "extra". Empty lines and lines that begin with
// # are skipped. In the file's order. Throws Error(kUsage): "name, line N: what; what to do".
std::vector<LoadRequest> read_load(std::string_view text, const std::string& name,
                                   const LoadForm& form, int output_tokens, bool ignore_eos);

}  // namespace tutti::eval
