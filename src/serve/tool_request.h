// The functions that a chat's model may call, and the calls of earlier turns.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "serve/fields.h"
#include "text/tool_call_grammar.h"

namespace tutti::serve {

struct ToolRequest {
  nlohmann::ordered_json tools;  // as they came, for the template
  std::vector<text::ToolFunction> functions;
  enum class Choice : uint8_t { kNone, kAuto, kRequired, kNamed } choice = Choice::kAuto;
  std::string named;     // kNamed: the one of `functions`
  bool parallel = true;  // more than one call in an answer

  bool any() const { return !functions.empty() && choice != Choice::kNone; }
  bool forced() const { return choice == Choice::kRequired || choice == Choice::kNamed; }
};

// `tools`, `tool_choice` and `parallel_tool_calls`. Throws ApiError naming the field.
ToolRequest read_tools(Fields& fields);

// The tool_calls of a message, their arguments as objects, as templates want them. `place` names
// the message in errors.
void read_tool_calls(nlohmann::ordered_json& message, const std::string& place, int depth);

}  // namespace tutti::serve
