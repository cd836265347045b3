// Any bytes as a template, rendered over a conversation: an Error or a text, and never long.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tutti::text::ChatTemplate;
  static const auto messages = nlohmann::ordered_json::parse(R"([
    {"role": "system", "content": "S\u00e9 <b>"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function":
      {"name": "f", "arguments": {"a": 1.5, "b": [true, null, "x"]}}}]},
    {"role": "tool", "content": "42", "tool_call_id": "1"}])");
  tutti::text::ChatOptions options;
  options.add_generation_prompt = true;
  options.tools = messages;
  options.now = std::chrono::system_clock::from_time_t(0);
  options.limits.steps = 20'000;
  options.limits.bytes = 1 << 20;
  options.limits.value_bytes = 1 << 18;
  options.limits.depth = 300;
  try {
    const std::string_view source(reinterpret_cast<const char*>(data), size);
    ChatTemplate::parse(source, {{"bos_token", "<s>"}, {"eos_token", "</s>"}})
        .render(messages, options);
  } catch (const tutti::Error&) {
  }
  return 0;
}
