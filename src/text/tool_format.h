// How a family of models writes a call of a function into its text.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::text {

enum class ToolFormat : uint8_t {
  kNone,
  kHermes,       // <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call> (Hermes, Qwen)
  kLlama3,       // {"name": …, "parameters": {…}}, alone or after <|python_tag|>; several by "; "
  kMistral,      // [TOOL_CALLS][{"name": …, "arguments": {…}}, …]
  kMistralArgs,  // [TOOL_CALLS]name[ARGS]{…}, from tokenizer version 11 on
  kDeepSeekV3,   // …<｜tool▁call▁begin｜>function<｜tool▁sep｜>name\n```json\n{…}\n```
  kDeepSeekV31,  // …<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}
};

inline constexpr std::string_view kDeepSeekCalls = "<｜tool▁calls▁begin｜>";
inline constexpr std::string_view kDeepSeekCallsEnd = "<｜tool▁calls▁end｜>";
inline constexpr std::string_view kDeepSeekCall = "<｜tool▁call▁begin｜>";
inline constexpr std::string_view kDeepSeekCallEnd = "<｜tool▁call▁end｜>";
inline constexpr std::string_view kDeepSeekSeparator = "<｜tool▁sep｜>";
inline constexpr std::string_view kHermesOpen = "<tool_call>", kHermesClose = "</tool_call>";
inline constexpr std::string_view kMistralOpen = "[TOOL_CALLS]", kMistralArguments = "[ARGS]",
                                  kMistralId = "[CALL_ID]";
inline constexpr std::string_view kLlamaOpen = "<|python_tag|>";

std::string_view name(ToolFormat format);  // "hermes", …
std::vector<std::string> tool_format_names();
std::optional<ToolFormat> find_tool_format(std::string_view name);

// What a chat template (Jinja source) teaches its model to write; kNone: it does not speak of
// tools. nullopt: it does, in none of these formats.
std::optional<ToolFormat> tool_format_of(std::string_view chat_template);

// Texts that mark calls and that a vocabulary may hold as control tokens, which are no part of an
// answer's text otherwise.
std::vector<std::string_view> tool_markers(ToolFormat format);

// Of these, those that a call begins with, and those that end one.
std::vector<std::string_view> tool_openers(ToolFormat format);
std::vector<std::string_view> tool_end_marks(ToolFormat format);

// Whether `name` may be a function's: 1 to 64 of A-Z a-z 0-9 _ - . : /
bool is_tool_name(std::string_view name);
bool is_tool_name_character(char c);

}  // namespace tutti::text
