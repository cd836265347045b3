// The bodies of /v1/chat/completions and /v1/completions, read and checked.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "decode/generation.h"
#include "serve/tool_request.h"
#include "text/grammar_source.h"

namespace tutti::serve {

struct RequestLimits {
  int depth = 64;        // of nested arrays and objects
  int choices = 64;      // n
  int prompts = 256;     // of one completions body
  int inputs = 2048;     // of one embeddings body
  int documents = 1024;  // of one rerank body
  int images = 16;       // of one chat
  int stop_strings = 16;
  size_t stop_bytes = 1024;
  size_t grammar_bytes = 65536;  // of a grammar, a schema or an expression
  int max_tokens = 0;            // 0: what the context holds
  bool strict = false;           // refuse fields that are not known
};

struct TextRequest {
  enum class Kind : uint8_t { kChat, kCompletion } kind = Kind::kChat;
  std::string model;
  nlohmann::ordered_json messages;             // kChat: an array
  std::vector<std::vector<std::byte>> images;  // of the messages, in order: files, not looked into
  nlohmann::ordered_json template_options =
      nlohmann::ordered_json::object();  // kChat: chat_template_kwargs
  bool add_generation_prompt = true;
  ToolRequest tools;  // kChat
  struct Prompt {
    std::string text;  // unless there are ids
    std::optional<std::vector<int32_t>> ids;
  };
  std::vector<Prompt> prompts;  // kCompletion
  decode::GenerationOptions options;
  std::optional<text::GrammarSource> grammar;  // what the text must be; none: anything
  bool echo = false;                           // kCompletion: the prompt before the text
  bool stream = false, include_usage = false;
  std::vector<std::string> unknown;  // fields that say nothing to us
};

// Throws ApiError that names the field: no JSON, too deep, a value out of range, something that is
// not supported. `log`, unless null, gets every field that was looked for.
TextRequest read_text_request(TextRequest::Kind kind, std::string_view body,
                              const RequestLimits& limits, FieldLog* log = nullptr);

// A string, token ids, or up to `most` of either. Throws ApiError.
std::vector<TextRequest::Prompt> read_prompts(Fields& fields, const std::string& field,
                                              size_t most);

// The JSON of a body, an object at most `depth` levels deep. Throws ApiError(400).
nlohmann::ordered_json read_body(std::string_view body, int depth);

}  // namespace tutti::serve
