// One line of a `tutti run --prompts` file: a prompt, and what it wants otherwise than the command
// line.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/context_options.h"
#include "decode/generation.h"

namespace tutti::cli {

struct JobLine {
  std::string prompt;                              // unless there are messages
  std::optional<nlohmann::ordered_json> messages;  // an array
  std::optional<std::string> system;               // for a prompt: the system message
  std::optional<bool> raw;                         // for a prompt: without the chat template
  std::optional<std::vector<ContextText>> contexts;
  std::optional<std::string> context_prefix;
  std::vector<std::string> images;  // files, in the order of their places
  decode::GenerationOptions options;
  nlohmann::ordered_json id;         // given back with the answer; null when the line has none
  std::vector<std::string> unknown;  // keys that say nothing to us
};

// Reads a line: an object with "prompt" or "messages"; the options of the command line are
// `defaults`, `null` leaves one as it is. Names are those of the command line or of the OpenAI API;
// "n" is the number of tokens, as on the command line. A line that names another method than the
// defaults does not get that method's options. Throws Error(kUsage) that says what is wrong with
// the line, without its number.
JobLine parse_job_line(std::string_view line, const decode::GenerationOptions& defaults);

}  // namespace tutti::cli
