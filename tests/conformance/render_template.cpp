// Renders chat templates for tests: JSON lines {"template", "context", "now"} (seconds, UTC) on
// stdin; a line
// {"text"} or {"error", "kind"} each on stdout. "messages" with "options" instead of "context" goes
// through ChatTemplate::render.
#include <chrono>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "text/chat_template.h"

namespace {

using nlohmann::ordered_json;

std::string rendered(const ordered_json& request,
                     std::map<std::string, tutti::text::ChatTemplate>& parsed) {
  const std::string source = request.at("template");
  auto it = parsed.find(source);
  if (it == parsed.end())
    it = parsed.emplace(source, tutti::text::ChatTemplate::parse(source)).first;
  tutti::text::ChatOptions options;
  options.now = std::chrono::system_clock::from_time_t(request.value("now", int64_t(0)));
  if (request.contains("context")) return it->second.render_context(request["context"], options);
  options.add_generation_prompt = request.value("add_generation_prompt", false);
  options.tools = request.value("tools", ordered_json());
  options.extra = request.value("extra", ordered_json::object());
  return it->second.render(request.at("messages"), options);
}

}  // namespace

int main() {
  std::map<std::string, tutti::text::ChatTemplate> parsed;
  std::string line;
  while (std::getline(std::cin, line)) {
    ordered_json answer;
    try {
      answer["text"] = rendered(ordered_json::parse(line), parsed);
    } catch (const tutti::Error& error) {
      answer["error"] = error.what();
      answer["kind"] = int(error.kind());
    } catch (const std::exception& error) {
      answer["error"] = error.what();
      answer["kind"] = -1;
    }
    std::cout << answer.dump() << "\n";
  }
}
