// A model's chat template: turns messages into the text the model was trained on, as transformers'
// apply_chat_template does, in a sandbox (no files, no network, bounded steps, memory and depth).
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "text/jinja_budget.h"

namespace tutti::text {

namespace jinja {
struct Template;
}

struct ChatOptions {
  bool add_generation_prompt = false;
  nlohmann::ordered_json tools;  // an array of JSON schemas, or null
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();  // more variables; they win
  std::optional<std::chrono::system_clock::time_point> now;         // for strftime_now; local time
  jinja::Limits limits;
};

class ChatTemplate {
 public:
  // `special_tokens` become variables (bos_token, eos_token ...). Throws Error(kBadFile |
  // kUnsupported) naming the template's line.
  static ChatTemplate parse(std::string_view source,
                            std::map<std::string, std::string> special_tokens = {});

  // The prompt for `messages` (an array of objects). Throws Error(kUsage) when the template refuses
  // them (raise_exception) or they lack what it needs, Error(kLimit) when it costs too much; both
  // name the line. Thread-safe.
  std::string render(const nlohmann::ordered_json& messages, const ChatOptions& options = {}) const;

  // The same with every variable given by the caller.
  std::string render_context(const nlohmann::ordered_json& context,
                             const ChatOptions& options = {}) const;

 private:
  std::shared_ptr<const jinja::Template> template_;
  std::map<std::string, std::string> special_tokens_;
};

}  // namespace tutti::text
