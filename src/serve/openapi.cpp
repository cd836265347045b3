#include "serve/openapi.h"

#include <map>

#include "decode/method.h"
#include "serve/embeddings.h"
#include "serve/rerank.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

Json parsed(const char* text) { return Json::parse(text); }

Json any_of(std::initializer_list<Json> schemas) {
  Json list = Json::array();
  for (const Json& one : schemas) list.push_back(one);
  return {{"anyOf", std::move(list)}};
}

// Fields whose readers have rules that no type and range tells.
std::map<std::string, Json> particular_fields(const RequestLimits& limits,
                                              const OpenApiModels& models) {
  const Json text{{"type", "string"}}, schema{{"type", "object"}};
  const Json token{{"type", "integer"}, {"minimum", 0}, {"maximum", models.vocabulary - 1}};
  const Json stop{{"type", "string"}, {"minLength", 1}, {"maxLength", limits.stop_bytes / 4}};
  const auto texts = [&](const Json& one, int most) {
    return Json{{"type", "array"}, {"items", one}, {"minItems", 1}, {"maxItems", most}};
  };
  const Json ids{{"type", "array"}, {"items", token}, {"minItems", 1}};
  const auto prompts = [&](int most) {
    return any_of({text, ids, texts(any_of({text, ids}), most)});
  };
  Json names = Json::array({"auto"});
  for (const decode::Method& m : decode::methods()) names.push_back(m.name);
  return {
      {"messages", parsed(R"({"type": "array", "minItems": 1, "items": {"anyOf": [
          {"type": "object", "required": ["role", "content"], "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [{"type": "object",
              "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}},
              {"type": "object", "required": ["type", "image_url"], "properties": {"type": {"const": "image_url"},
                "image_url": {"type": "object", "required": ["url"], "properties": {"url": {"type": "string",
                  "pattern": "^data:image/(png|jpeg);base64,"}}}}}]}}]},
            "name": {"type": "string"}, "tool_call_id": {"type": "string"},
            "reasoning_content": {"type": "string"}}},
          {"type": "object", "required": ["role", "tool_calls"], "properties": {
            "role": {"const": "assistant"}, "content": {"type": ["string", "null"]},
            "tool_calls": {"type": "array", "items": {"type": "object", "required": ["id", "type", "function"],
              "properties": {"id": {"type": "string"}, "type": {"const": "function"}, "function": {"type": "object",
                "required": ["name", "arguments"], "properties": {"name": {"type": "string"},
                  "arguments": {"type": "string"}}}}}}}}]}})")},
      {"model", {{"enum", models.names}}},
      {"dimensions", {{"enum", models.dimensions}}},
      {"prompt", prompts(limits.prompts)},
      {"input", prompts(limits.inputs)},
      {"documents", texts(any_of({text, parsed(R"({"type": "object", "required": ["text"],
          "properties": {"text": {"type": "string"}}})")}),
                          limits.documents)},
      {"stop", any_of({stop, texts(stop, limits.stop_strings)})},
      {"logit_bias",
       {{"type", "object"},
        {"propertyNames", {{"pattern", "^[0-9]{1,9}$"}}},
        {"additionalProperties", {{"type", "number"}, {"minimum", -100}, {"maximum", 100}}}}},
      {"response_format", parsed(R"({"type": "object", "required": ["type"], "anyOf": [
          {"properties": {"type": {"enum": ["text", "json_object"]}}},
          {"required": ["json_schema"], "properties": {"type": {"const": "json_schema"}, "json_schema": {"type": "object",
            "required": ["schema"], "properties": {"name": {"type": "string"}, "schema": {"type": "object"},
              "strict": {"type": "boolean"}}}}}]})")},
      {"json_schema", schema},
      {"guided_json", schema},
      {"guided_choice", texts(text, 1000)},
      {"structured_outputs",
       {{"type", "object"},
        {"properties",
         {{"json", schema},
          {"regex", text},
          {"choice", texts(text, 1000)},
          {"grammar", text},
          {"json_object", {{"type", "boolean"}}}}},
        {"additionalProperties", false}}},
      {"method", {{"enum", std::move(names)}}},
      {"method_options",
       {{"type", "object"}, {"additionalProperties", {{"type", {"string", "number", "boolean"}}}}}},
      {"best_of", {{"const", 1}}},
      {"stream_options",
       {{"type", "object"}, {"properties", {{"include_usage", {{"type", "boolean"}}}}}}},
      {"chat_template_kwargs", schema},
      {"tools",
       parsed(
           R"({"type": "array", "maxItems": 128, "items": {"type": "object", "required": ["type", "function"],
          "properties": {"type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,64}$"}, "description": {"type": "string"},
            "parameters": {"type": "object"}, "strict": {"type": "boolean"}}}}}})")},
      {"tool_choice",
       parsed(R"({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object",
          "required": ["type", "function"], "properties": {"type": {"const": "function"}, "function": {"type": "object",
            "required": ["name"], "properties": {"name": {"type": "string"}}}}}]})")},
      {"encoding_format", {{"enum", {"float", "base64"}}}},
  };
}

Json described(const FieldLog& log, std::vector<std::string> required, const RequestLimits& limits,
               const OpenApiModels& models) {
  const std::map<std::string, Json> particular = particular_fields(limits, models);
  Json properties = Json::object();
  for (const auto& [name, schema] : log) {
    const auto it = particular.find(name);
    properties[name] = it == particular.end() ? schema : it->second;
  }
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    if (limits.max_tokens > 0 && properties.contains(name))
      properties[name]["maximum"] = limits.max_tokens;
  }
  return {{"type", "object"}, {"required", std::move(required)}, {"properties", properties}};
}

Json error_schema() {
  return parsed(
      R"({"type": "object", "required": ["error"], "properties": {"error": {"type": "object",
      "required": ["message", "type", "param", "code"], "properties": {"message": {"type": "string"},
      "type": {"type": "string"}, "param": {"type": ["string", "null"]},
      "code": {"type": ["string", "integer", "null"]}}}}})");
}

const char* summary_of(const std::string& path) {
  static const std::map<std::string, const char*> kSummaries{
      {"/v1/chat/completions", "The next message of a chat: text, thoughts, calls of tools"},
      {"/v1/completions", "What follows a text, or its log-probabilities"},
      {"/v1/embeddings",
       "Texts as vectors of length 1: the mean of the model's last states, or as an encoder's own "
       "files pool them"},
      {"/v1/rerank",
       "Documents by relevance to a query: an encoder's score head says it as a number from 0 to 1 "
       "(\"tutti.score\": \"classifier\"), of any other model it is the cosine of the vectors of "
       "/v1/embeddings (\"cosine\")"},
      {"/v1/models", "What is served"},
      {"/health", "Whether the server takes requests"},
      {"/version", "Its version"},
      {"/metrics", "Counters, gauges and histograms for Prometheus"},
      {"/openapi.json", "This document"},
      {"/tokenize", "Text to token ids"},
      {"/detokenize", "Token ids to text"},
      {"/", "A page with a chat and the score"},
      {"/v1/methods", "The table of methods, and which of them each model runs"},
      {"/tutti/events", "The score, a stream of events that does not end: forwards as they happen"},
  };
  const auto it = kSummaries.find(path);
  return it == kSummaries.end() ? "" : it->second;
}

/// One event of a stream. Before OpenAPI 3.2, which has `itemSchema`, readers of documents take the
/// schema of an event stream as that of each event.
Json event_schema() {
  return parsed(R"({"type": "object", "required": ["data"], "properties": {
      "data": {"type": "string", "contentMediaType": "application/json", "description": "a piece of the answer; at last [DONE]"},
      "event": {"type": "string"}}})");
}

/// Bodies to try: the answer whole, and as a stream.
Json examples_of(const std::string& path, const OpenApiModels& models) {
  Json body;
  if (path == "/v1/chat/completions")
    body = {{"messages", Json::array({Json{{"role", "user"}, {"content", "Hello"}}})}};
  else if (path == "/v1/completions")
    body = {{"prompt", "Once upon a time"}};
  else if (path == "/v1/embeddings")
    return {{"texts", {{"value", {{"input", {"a text", "another"}}}}}}};
  else
    return nullptr;
  body["max_tokens"] = 2;
  if (!models.names.empty()) body["model"] = models.names.front();
  Json stream = body;
  stream["stream"] = true;
  return {{"whole", {{"value", body}}}, {"stream", {{"value", stream}}}};
}

Json responses(const std::string& path, bool takes_body, bool open, bool keys) {
  const Json error{{"application/json", {{"schema", {{"$ref", "#/components/schemas/Error"}}}}}};
  Json content;
  static const std::map<std::string, const char*> kTexts{
      {"/metrics", "text/plain"}, {"/", "text/html"}, {"/tutti/events", "text/event-stream"}};
  if (const auto text = kTexts.find(path); text != kTexts.end()) {
    content = {{text->second,
                {{"schema", path == "/tutti/events" ? event_schema() : Json{{"type", "string"}}}}}};
  } else {
    content = {{"application/json", {{"schema", {{"type", "object"}}}}}};
    if (path.ends_with("completions")) content["text/event-stream"] = {{"schema", event_schema()}};
  }
  Json out{{"200", {{"description", "The answer"}, {"content", std::move(content)}}}};
  const auto add = [&](const char* status, const char* why) {
    out[status] = {{"description", why}, {"content", error}};
  };
  if (takes_body) {
    add("400", "Something in the body is wrong; the message says what");
    add("404", "The model is not served here");
    add("413", "The body is too large");
    add("415", "The body is not said to be JSON");
    add("429", "The queue is full");
    add("501", "A field that is known and not supported yet");
  }
  if (keys && !open) add("401", "The key is missing or wrong");
  add("503", "The server is shutting down, or the request waited too long");
  return out;
}

}  // namespace

Json body_schema(const std::string& path, const RequestLimits& limits,
                 const OpenApiModels& models) {
  FieldLog log;
  RequestLimits free = limits;
  free.strict = false;
  using Kind = TextRequest::Kind;
  if (path == "/v1/chat/completions") {
    read_text_request(Kind::kChat, R"({"messages": [{"role": "user", "content": ""}]})", free,
                      &log);
    return described(log, {"messages"}, limits, models);
  }
  if (path == "/v1/completions") {
    read_text_request(Kind::kCompletion, R"({"prompt": "a"})", free, &log);
    return described(log, {"prompt"}, limits, models);
  }
  if (path == "/v1/embeddings") {
    read_embedding_request(R"({"input": "a"})", free, &log);
    return described(log, {"input"}, limits, models);
  }
  if (path == "/v1/rerank") {
    read_rerank_request(R"({"query": "a", "documents": ["a"]})", free, &log);
    return described(log, {"query", "documents"}, limits, models);
  }
  Json small;
  if (path == "/tokenize") {
    small = parsed(
        R"({"type": "object", "required": ["content"], "properties": {"content": {"type": "string"},
        "add_special": {"type": "boolean"}, "parse_special": {"type": "boolean"},
        "with_pieces": {"type": "boolean"}}})");
  } else if (path == "/detokenize") {
    small = parsed(R"({"type": "object", "required": ["tokens"], "properties": {
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}}}})");
    small["properties"]["tokens"]["items"]["maximum"] = models.vocabulary - 1;
  } else {
    return nullptr;
  }
  // Their readers are in tokenize.cpp.
  small["properties"]["model"] = {{"enum", models.names}};
  return small;
}

Json openapi_document(const std::vector<OpenApiRoute>& routes, const std::string& version,
                      const RequestLimits& limits, const OpenApiModels& models, bool keys,
                      const Json& server_options) {
  Json paths = Json::object();
  for (const OpenApiRoute& route : routes) {
    const Json body = body_schema(route.path, limits, models);
    std::string method = route.method, id;
    for (char& c : method) c = char(std::tolower(static_cast<unsigned char>(c)));
    for (const char c : route.path) id += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
    Json operation{{"operationId", method + id},
                   {"summary", summary_of(route.path)},
                   {"responses", responses(route.path, !body.is_null(), route.open, keys)}};
    if (!body.is_null()) {
      Json content{{"schema", body}};
      if (Json examples = examples_of(route.path, models); !examples.is_null())
        content["examples"] = std::move(examples);
      operation["requestBody"] = {{"required", true}, {"content", {{"application/json", content}}}};
    }
    if (route.open) operation["security"] = Json::array();
    paths[route.path][method] = std::move(operation);
  }
  Json document{{"openapi", "3.1.0"},
                {"info", {{"title", "Tutti"}, {"version", version}}},
                {"paths", std::move(paths)},
                {"components",
                 {{"schemas", {{"Error", error_schema()}}},
                  {"securitySchemes",
                   {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}},
                    {"key", {{"type", "apiKey"}, {"in", "header"}, {"name", "x-api-key"}}}}}}}};
  if (keys)
    document["security"] =
        Json::array({Json{{"bearer", Json::array()}}, Json{{"key", Json::array()}}});
  if (!server_options.is_null()) document["x-server-options"] = server_options;
  return document;
}

}  // namespace tutti::serve
