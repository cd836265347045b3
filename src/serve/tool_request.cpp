#include "serve/tool_request.h"

#include <algorithm>

#include "serve/api_error.h"
#include "serve/text_request.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostTools = 128;

// The value of `key` in an object, or null.
const Json* in(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

text::ToolFunction read_function(const Json& tool, const std::string& place) {
  const Json* type = in(tool, "type");
  const Json* function = in(tool, "function");
  if (!function || !type || *type != "function")
    throw invalid(place + ": must be {\"type\": \"function\", \"function\": {…}}", "tools");
  const Json* name = in(*function, "name");
  if (!name || !name->is_string() || !text::is_tool_name(name->get_ref<const std::string&>()))
    throw invalid(place + ".function.name: must be 1 to 64 letters, digits or _-.:/", "tools");
  if (const Json* said = in(*function, "description"); said && !said->is_string())
    throw invalid(place + ".function.description: must be a string", "tools");
  const Json* parameters = in(*function, "parameters");
  if (parameters && !parameters->is_object())
    throw invalid(place + ".function.parameters: must be a JSON schema", "tools");
  return {name->get<std::string>(), parameters ? *parameters : Json()};
}

void read_choice(const Json& choice, ToolRequest& request) {
  using Choice = ToolRequest::Choice;
  if (choice == "none") {
    request.choice = Choice::kNone;
  } else if (choice == "auto") {
    request.choice = Choice::kAuto;
  } else if (choice == "required") {
    request.choice = Choice::kRequired;
  } else {
    const Json* function = in(choice, "function");
    const Json* name = function ? in(*function, "name") : nullptr;
    if (!name || !name->is_string())
      throw invalid(
          "tool_choice: must be none, auto, required or {\"type\": \"function\", \"function\": "
          "{\"name\": …}}",
          "tool_choice");
    request.choice = Choice::kNamed;
    request.named = *name;
    const bool known = std::ranges::any_of(request.functions,
                                           [&](const auto& f) { return f.name == request.named; });
    if (!known)
      throw invalid("tool_choice: names " +
                        name->dump(-1, ' ', true, Json::error_handler_t::replace) +
                        ", which is none of the tools",
                    "tool_choice");
  }
}

}  // namespace

ToolRequest read_tools(Fields& fields) {
  ToolRequest request;
  if (const Json* tools = fields.find("tools")) {
    if (!tools->is_array()) throw invalid("tools: must be an array", "tools");
    if (tools->size() > kMostTools)
      throw invalid("tools: has " + std::to_string(tools->size()) + " entries; give at most " +
                        std::to_string(kMostTools),
                    "tools");
    for (size_t i = 0; i < tools->size(); ++i) {
      text::ToolFunction f = read_function((*tools)[i], "tools[" + std::to_string(i) + "]");
      const bool twice =
          std::ranges::any_of(request.functions, [&](const auto& g) { return g.name == f.name; });
      if (twice) throw invalid("tools: has two functions called " + f.name, "tools");
      request.functions.push_back(std::move(f));
    }
    request.tools = *tools;
  }
  request.parallel = fields.flag("parallel_tool_calls", true);
  if (const Json* choice = fields.find("tool_choice")) read_choice(*choice, request);
  if (request.forced() && request.functions.empty())
    throw invalid("tool_choice: goes with tools", "tool_choice");
  return request;
}

void read_tool_calls(Json& message, const std::string& place, int depth) {
  Json& calls = message["tool_calls"];
  if (!calls.is_array()) throw invalid(place + ".tool_calls: must be an array", "messages");
  for (Json& call : calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    const Json* name = function == call.end() ? nullptr : in(*function, "name");
    if (!name || !name->is_string())
      throw invalid(place + ".tool_calls: every call needs \"function\": {\"name\": …}",
                    "messages");
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || !arguments->is_string()) continue;
    // Text that is no object stays text: it is what the model wrote.
    try {
      *arguments = read_body(arguments->get<std::string>(), depth);
    } catch (const ApiError&) {
    }
  }
}

}  // namespace tutti::serve
