// How a model's chats go, read off its template: how it writes calls and thoughts.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tool_format.h"

namespace tutti::serve {

struct ChatFormat {
  // nullopt: the template has calls in a format that is not known here.
  std::optional<text::ToolFormat> tools = text::ToolFormat::kNone;
  bool lists_tools = false;    // the template tells the model of its tools
  bool renders_calls = false;  // it writes earlier calls and their results
  bool thinks = false;         // the model may think before it answers, in tags
};

// `tool_parser`: "auto" or a name of text::tool_format_names(); `reasoning_parser`: "auto", "think"
// (or vLLM's names qwen3, deepseek_r1) or "none". Throws Error(kUsage).
ChatFormat chat_format_of(std::string_view chat_template, const std::string& tool_parser = "auto",
                          const std::string& reasoning_parser = "auto");

std::vector<std::string> tool_parser_names();
std::vector<std::string> reasoning_parser_names();

}  // namespace tutti::serve
