#include "serve/chat_format.h"

#include "base/error.h"
#include "text/reasoning_splitter.h"

namespace tutti::serve {

ChatFormat chat_format_of(std::string_view chat_template, const std::string& tool_parser,
                          const std::string& reasoning_parser) {
  const auto has = [&](std::string_view text) {
    return chat_template.find(text) != std::string_view::npos;
  };
  ChatFormat format;
  format.lists_tools = has("tools");
  format.renders_calls = has("tool_calls");
  if (tool_parser == "auto") {
    format.tools = text::tool_format_of(chat_template);
  } else {
    format.tools = text::find_tool_format(tool_parser);
    if (!format.tools)
      throw Error(ErrorKind::kUsage, "--tool-parser: \"" + tool_parser + "\" is not known");
  }
  format.thinks = reasoning_parser == "auto" ? has(text::kThinkOpen) : reasoning_parser != "none";
  return format;
}

std::vector<std::string> tool_parser_names() {
  std::vector<std::string> names = text::tool_format_names();
  names.insert(names.begin(), "auto");
  for (const char* alias : {"llama3_json", "deepseek_v3", "deepseek_v31"})
    names.emplace_back(alias);
  return names;
}

std::vector<std::string> reasoning_parser_names() {
  return {"auto", "none", "think", "qwen3", "deepseek_r1"};
}

}  // namespace tutti::serve
