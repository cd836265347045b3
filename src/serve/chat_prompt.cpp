#include "serve/chat_prompt.h"

#include "formats/json_text.h"
#include "serve/api_error.h"
#include "text/reasoning_splitter.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;
using formats::print_json;
using text::ToolFormat;

// A call as the model would write it.
std::string example(ToolFormat format, const std::string& name, const std::string& arguments) {
  const auto object = [&](const char* key) {
    return "{\"name\": " + name + ", \"" + key + "\": " + arguments + "}";
  };
  const auto join = [](auto... parts) { return (std::string(parts) + ...); };
  switch (format) {
    case ToolFormat::kNone:
    case ToolFormat::kHermes:
      return join(text::kHermesOpen, "\n", object("arguments"), "\n", text::kHermesClose);
    case ToolFormat::kLlama3:
      return object("parameters");
    case ToolFormat::kMistral:
      return join(text::kMistralOpen, "[", object("arguments"), "]");
    case ToolFormat::kMistralArgs:
      return join(text::kMistralOpen, name, text::kMistralArguments, arguments);
    case ToolFormat::kDeepSeekV3:
      return join(text::kDeepSeekCalls, text::kDeepSeekCall, "function", text::kDeepSeekSeparator,
                  name, "\n```json\n", arguments, "\n```", text::kDeepSeekCallEnd,
                  text::kDeepSeekCallsEnd);
    case ToolFormat::kDeepSeekV31:
      return join(text::kDeepSeekCalls, text::kDeepSeekCall, name, text::kDeepSeekSeparator,
                  arguments, text::kDeepSeekCallEnd, text::kDeepSeekCallsEnd);
  }
  return "";
}

std::string told(const ToolRequest& tools, ToolFormat format) {
  std::string out = "You may call functions. Here they are, as JSON:\n<tools>\n";
  for (const Json& tool : tools.tools) out += print_json(tool["function"]) + "\n";
  out += "</tools>\nTo call one, write\n" + example(format, "NAME", "{ARGUMENTS}") + "\n";
  return out + "with its name and with arguments by its schema, and nothing after it.";
}

void tell(Json& messages, const std::string& text) {
  Json& first = messages.front();
  if (first["role"] == "system" && first["content"].is_string()) {
    first["content"] = first["content"].get<std::string>() + "\n\n" + text;
  } else {
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
  }
}

// For templates that know no calls: as the texts that they were.
void write_calls(Json& messages, ToolFormat format) {
  for (Json& message : messages) {
    if (message["role"] == "tool") {
      message["role"] = "user";
      message["content"] =
          "<tool_response>\n" + message["content"].get<std::string>() + "\n</tool_response>";
      message.erase("tool_call_id");
      message.erase("name");
      continue;
    }
    const auto calls = message.find("tool_calls");
    if (calls == message.end()) continue;
    std::string text = message["content"].get<std::string>();
    for (const Json& call : *calls) {
      const Json& function = call["function"];
      const std::string name = function["name"].get<std::string>();
      const auto arguments = function.find("arguments");
      const bool bare = format == ToolFormat::kMistralArgs || format == ToolFormat::kDeepSeekV3 ||
                        format == ToolFormat::kDeepSeekV31;
      text += (text.empty() ? "" : "\n") + example(format, bare ? name : print_json(Json(name)),
                                                   arguments == function.end() ? "{}"
                                                   : arguments->is_string()
                                                       ? arguments->get<std::string>()
                                                       : print_json(*arguments));
    }
    message["content"] = text;
    message.erase("tool_calls");
  }
}

bool speaks_of_calls(const Json& messages) {
  for (const Json& message : messages) {
    if (message["role"] == "tool" || message.contains("tool_calls")) return true;
  }
  return false;
}

text::ToolCallRule rule_of(const ToolRequest& tools, ToolFormat format) {
  text::ToolCallRule rule;
  rule.format = format;
  const bool named = tools.choice == ToolRequest::Choice::kNamed;
  for (const text::ToolFunction& f : tools.functions) {
    if (!named || f.name == tools.named) rule.functions.push_back(f);
  }
  rule.several = tools.parallel && !named;
  return rule;
}

}  // namespace

ChatPrompt plan_chat(const ChatFormat& format, const TextRequest& request) {
  ChatPrompt out;
  if (!request.tools.any()) return out;
  if (!format.tools)
    throw unsupported(
        "tools: this model's template writes calls in a format that is not known here; start the "
        "server with --tool-parser to choose one",
        "tools");
  out.tools = *format.tools == ToolFormat::kNone ? ToolFormat::kHermes : *format.tools;
  if (request.tools.forced()) out.forced = rule_of(request.tools, out.tools);
  return out;
}

void write_chat(const text::ChatTemplate& chat, const ChatFormat& format,
                const TextRequest& request, ChatPrompt& prompt) {
  Json messages = request.messages;
  text::ChatOptions options;
  options.add_generation_prompt = request.add_generation_prompt;
  options.extra = request.template_options;
  const bool history = speaks_of_calls(messages);
  if (request.tools.any()) {
    if (format.lists_tools)
      options.tools = request.tools.tools;
    else
      tell(messages, told(request.tools, prompt.tools));
  }
  if (history && !format.renders_calls)
    write_calls(messages, format.tools.value_or(ToolFormat::kHermes));
  prompt.text = chat.render(messages, options);
  prompt.in_thought = format.thinks && text::ends_in_thought(prompt.text);
  if (prompt.in_thought && (prompt.forced || request.grammar)) {
    prompt.text += "\n" + std::string(text::kThinkClose) + "\n\n";
    prompt.in_thought = false;
  }
  if (prompt.forced) prompt.text += prompt.forced->opening();
}

}  // namespace tutti::serve
