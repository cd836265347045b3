#include "text/chat_template.h"

#include "base/error.h"
#include "text/jinja_runtime.h"
#include "text/jinja_syntax.h"

namespace tutti::text {

using nlohmann::ordered_json;

namespace {

// transformers names a message's reasoning so, whichever of the three names it came under.
ordered_json with_reasoning(const ordered_json& message) {
  for (const char* field : {"reasoning_content", "thinking", "reasoning"}) {
    const auto it = message.find(field);
    if (it == message.end() || it->is_null()) continue;
    ordered_json out = ordered_json::object();
    out["thinking"] = *it;
    for (const auto& [key, value] : message.items()) out[key] = value;
    out["reasoning_content"] = *it;
    return out;
  }
  return message;
}

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view source,
                                 std::map<std::string, std::string> special_tokens) {
  ChatTemplate out;
  out.template_ = std::make_shared<const jinja::Template>(jinja::parse(source));
  out.special_tokens_ = std::move(special_tokens);
  return out;
}

std::string ChatTemplate::render(const ordered_json& messages, const ChatOptions& options) const {
  if (!messages.is_array())
    throw Error(ErrorKind::kUsage, "messages: not an array; give a list of {role, content}");
  ordered_json context = ordered_json::object();
  for (const auto& [name, token] : special_tokens_) context[name] = token;
  ordered_json& chat = context["messages"] = ordered_json::array();
  for (const auto& message : messages) {
    if (!message.is_object())
      throw Error(ErrorKind::kUsage, "messages: an element is no object; give {role, content}");
    chat.push_back(with_reasoning(message));
  }
  context["tools"] = options.tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  for (const auto& [name, value] : options.extra.items()) context[name] = value;
  return render_context(context, options);
}

std::string ChatTemplate::render_context(const ordered_json& context,
                                         const ChatOptions& options) const {
  const auto now = options.now.value_or(std::chrono::system_clock::now());
  return jinja::Renderer(*template_, options.limits, now).render(context);
}

}  // namespace tutti::text
