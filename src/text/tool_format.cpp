#include "text/tool_format.h"

#include <algorithm>
#include <utility>

namespace tutti::text {
namespace {

constexpr std::pair<ToolFormat, std::string_view> kNames[] = {
    {ToolFormat::kNone, "none"},
    {ToolFormat::kHermes, "hermes"},
    {ToolFormat::kLlama3, "llama3"},
    {ToolFormat::kMistral, "mistral"},
    {ToolFormat::kMistralArgs, "mistral-args"},
    {ToolFormat::kDeepSeekV3, "deepseek-v3"},
    {ToolFormat::kDeepSeekV31, "deepseek-v31"},
};

// Names that vLLM gives its parsers.
constexpr std::pair<std::string_view, ToolFormat> kAliases[] = {
    {"llama3_json", ToolFormat::kLlama3},
    {"deepseek_v3", ToolFormat::kDeepSeekV3},
    {"deepseek_v31", ToolFormat::kDeepSeekV31},
};

}  // namespace

std::string_view name(ToolFormat format) {
  return std::ranges::find(kNames, format, &std::pair<ToolFormat, std::string_view>::first)->second;
}

std::vector<std::string> tool_format_names() {
  std::vector<std::string> names;
  for (const auto& [format, text] : kNames) names.emplace_back(text);
  return names;
}

std::optional<ToolFormat> find_tool_format(std::string_view name) {
  for (const auto& [format, text] : kNames) {
    if (text == name) return format;
  }
  for (const auto& [text, format] : kAliases) {
    if (text == name) return format;
  }
  return std::nullopt;
}

std::optional<ToolFormat> tool_format_of(std::string_view source) {
  const auto has = [&](std::string_view text) {
    return source.find(text) != std::string_view::npos;
  };
  if (has("tool▁call▁begin")) {
    return has("```json") ? ToolFormat::kDeepSeekV3 : ToolFormat::kDeepSeekV31;
  }
  if (has("TOOL_CALLS]"))
    return has(kMistralArguments) ? ToolFormat::kMistralArgs : ToolFormat::kMistral;
  // Others write no JSON between the same tags, but tags of their own.
  const bool other = has("<function=") || has("<arg_key>") || has("<invoke") || has("<tool_calls>");
  if (has(kHermesOpen) && !other) return ToolFormat::kHermes;
  if (has("ipython") && has("\"parameters\"") && !other) return ToolFormat::kLlama3;
  if (has("tools")) return std::nullopt;
  return ToolFormat::kNone;
}

std::vector<std::string_view> tool_markers(ToolFormat format) {
  switch (format) {
    case ToolFormat::kNone:
      return {};
    case ToolFormat::kHermes:
      return {kHermesOpen, kHermesClose};
    case ToolFormat::kLlama3:
      return {kLlamaOpen};
    case ToolFormat::kMistral:
    case ToolFormat::kMistralArgs:
      return {kMistralOpen, kMistralArguments, kMistralId};
    case ToolFormat::kDeepSeekV3:
    case ToolFormat::kDeepSeekV31:
      return {kDeepSeekCalls, kDeepSeekCallsEnd, kDeepSeekCall, kDeepSeekCallEnd,
              kDeepSeekSeparator};
  }
  return {};
}

std::vector<std::string_view> tool_openers(ToolFormat format) {
  switch (format) {
    case ToolFormat::kNone:
      return {};
    case ToolFormat::kHermes:
      return {kHermesOpen};
    case ToolFormat::kLlama3:
      return {kLlamaOpen};
    case ToolFormat::kMistral:
    case ToolFormat::kMistralArgs:
      return {kMistralOpen};
    case ToolFormat::kDeepSeekV3:
    case ToolFormat::kDeepSeekV31:
      return {kDeepSeekCalls, kDeepSeekCall};
  }
  return {};
}

std::vector<std::string_view> tool_end_marks(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes:
      return {kHermesClose};
    case ToolFormat::kDeepSeekV3:
    case ToolFormat::kDeepSeekV31:
      return {kDeepSeekCallEnd, kDeepSeekCallsEnd};
    default:
      return {};
  }
}

bool is_tool_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.' || c == ':' || c == '/';
}

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::ranges::all_of(name, is_tool_name_character);
}

}  // namespace tutti::text
