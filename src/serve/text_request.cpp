#include "serve/text_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/hash.h"
#include "decode/method.h"
#include "serve/api_error.h"
#include "serve/fields.h"
#include "serve/json_bounds.h"
#include "serve/message_parts.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

void read_stops(Fields& fields, const RequestLimits& limits, decode::GenerationOptions& o) {
  const Json* stop = fields.find("stop");
  if (!stop) return;
  const Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  if (!list.is_array()) throw invalid("stop: must be a string or an array of strings", "stop");
  if (list.size() > size_t(limits.stop_strings)) {
    throw invalid("stop: has " + std::to_string(list.size()) + " strings; give at most " +
                      std::to_string(limits.stop_strings),
                  "stop");
  }
  for (const Json& one : list) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty())
      throw invalid("stop: must hold strings that are not empty", "stop");
    if (one.get_ref<const std::string&>().size() > limits.stop_bytes) {
      throw invalid("stop: has a string of more than " + std::to_string(limits.stop_bytes) +
                        " bytes; shorten it",
                    "stop");
    }
    o.stop.push_back(one);
  }
}

void read_bias(Fields& fields, engine::Sampling& s) {
  const Json* bias = fields.find("logit_bias");
  if (!bias) return;
  if (!bias->is_object())
    throw invalid("logit_bias: must be an object of token ids to numbers", "logit_bias");
  for (const auto& [key, value] : bias->items()) {
    int32_t id = 0;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    if (read.ec != std::errc() || read.ptr != key.data() + key.size() || id < 0) {
      throw invalid("logit_bias: \"" + key + "\" is no token id", "logit_bias");
    }
    const double x = value.is_number() ? value.get<double>() : NAN;
    if (!(x >= -100 && x <= 100))
      throw invalid("logit_bias: must hold numbers from -100 to 100", "logit_bias");
    s.logit_bias.emplace_back(id, float(x));
  }
}

void read_sampling(Fields& fields, engine::Sampling& s) {
  s.temperature = float(fields.number({"temperature"}, 0, 2).value_or(1));
  s.top_p = float(fields.number({"top_p"}, 0, 1).value_or(1));
  // vLLM's -1 and llama.cpp's 0 both mean all.
  s.top_k = int(std::max<int64_t>(0, fields.integer({"top_k"}, -1, 1 << 30).value_or(0)));
  s.min_p = float(fields.number({"min_p"}, 0, 1).value_or(0));
  s.typical_p = float(fields.number({"typical_p"}, 0, 1).value_or(1));
  s.repetition_penalty =
      float(fields.number({"repetition_penalty", "repeat_penalty"}, 0.01, 10).value_or(1));
  s.penalty_window = int(fields.integer({"repeat_last_n"}, -1, 1 << 30).value_or(-1));
  s.presence_penalty = float(fields.number({"presence_penalty"}, -2, 2).value_or(0));
  s.frequency_penalty = float(fields.number({"frequency_penalty"}, -2, 2).value_or(0));
  read_bias(fields, s);
}

using text::GrammarSource;

// One of the ways to say it; a second one is refused.
class GrammarField {
 public:
  GrammarField(const RequestLimits& limits, std::optional<GrammarSource>& out)
      : limits_(limits), out_(out) {}

  void set(GrammarSource source, const std::string& field) {
    if (out_)
      throw invalid(field + ": the request is constrained already by " + first_ + "; give one",
                    field);
    size_t bytes = source.text.size();
    for (const std::string& one : source.choices) bytes += one.size();
    if (bytes > limits_.grammar_bytes) {
      throw invalid(field + ": has " + std::to_string(bytes) + " bytes; give at most " +
                        std::to_string(limits_.grammar_bytes),
                    field);
    }
    out_ = std::move(source);
    first_ = field;
  }
  void text(Fields& fields, const char* field, GrammarSource::Kind kind) {
    if (const std::string value = fields.text(field); !value.empty()) set({kind, value, {}}, field);
  }
  // A schema as an object, or as the text of one.
  void schema(const Json* value, const std::string& field) {
    if (!value) return;
    if (!value->is_object() && !value->is_boolean() && !value->is_string())
      throw invalid(field + ": must be a JSON schema", field);
    set({GrammarSource::kJsonSchema,
         value->is_string() ? value->get<std::string>()
                            : value->dump(-1, ' ', false, Json::error_handler_t::replace),
         {}},
        field);
  }
  void choices(const Json* value, const std::string& field) {
    if (!value) return;
    if (!value->is_array() || value->empty())
      throw invalid(field + ": must be an array of strings", field);
    GrammarSource source{GrammarSource::kChoice, "", {}};
    for (const Json& one : *value) {
      if (!one.is_string()) throw invalid(field + ": must be an array of strings", field);
      source.choices.push_back(one);
    }
    set(std::move(source), field);
  }

 private:
  const RequestLimits& limits_;
  std::optional<GrammarSource>& out_;
  std::string first_;
};

// OpenAI's response_format; vLLM's structured_outputs and guided_…; llama.cpp's grammar and
// json_schema.
void read_grammar(Fields& fields, const RequestLimits& limits, std::optional<GrammarSource>& out) {
  GrammarField grammar(limits, out);
  if (const Json* format = fields.find("response_format")) {
    const auto type = format->is_object() ? format->find("type") : format->end();
    if (!format->is_object() || type == format->end() || !type->is_string()) {
      throw invalid("response_format: must be an object with a \"type\"", "response_format");
    }
    if (*type == "json_object") {
      if (const auto schema = format->find("schema"); schema != format->end())
        grammar.schema(&*schema, "response_format");  // llama.cpp
      else
        grammar.set({GrammarSource::kJsonObject, "", {}}, "response_format");
    } else if (*type == "json_schema") {
      const auto inner = format->find("json_schema");
      if (inner == format->end() || !inner->is_object() || !inner->contains("schema")) {
        throw invalid("response_format: needs \"json_schema\": {\"schema\": …}", "response_format");
      }
      grammar.schema(&(*inner)["schema"], "response_format");
    } else if (*type != "text") {
      throw invalid("response_format: must be text, json_object or json_schema", "response_format");
    }
  }
  grammar.text(fields, "grammar", GrammarSource::kGbnf);
  grammar.text(fields, "guided_grammar", GrammarSource::kGbnf);
  grammar.text(fields, "guided_regex", GrammarSource::kRegex);
  grammar.schema(fields.find("json_schema"), "json_schema");
  grammar.schema(fields.find("guided_json"), "guided_json");
  grammar.choices(fields.find("guided_choice"), "guided_choice");
  if (const Json* outputs = fields.find("structured_outputs")) {
    if (!outputs->is_object())
      throw invalid("structured_outputs: must be an object", "structured_outputs");
    Fields inner(*outputs);
    grammar.text(inner, "grammar", GrammarSource::kGbnf);
    grammar.text(inner, "regex", GrammarSource::kRegex);
    grammar.schema(inner.find("json"), "structured_outputs");
    grammar.choices(inner.find("choice"), "structured_outputs");
    if (inner.flag("json_object", false))
      grammar.set({GrammarSource::kJsonObject, "", {}}, "structured_outputs");
    inner.refuse({"structural_tag", "whitespace_pattern"});
    if (!inner.unknown().empty())
      throw invalid("structured_outputs: " + inner.unknown().front() + " is not known",
                    "structured_outputs");
  }
}

// "method": a name of 'tutti methods', with "method_options": its options, as text, numbers or
// booleans.
void read_method(Fields& fields, decode::GenerationOptions& o) {
  o.method = fields.text("method", "auto");
  if (o.method != "auto") {
    try {
      decode::find_method(o.method);
    } catch (const Error& e) {
      throw invalid(e.what(), "method");
    }
  }
  const Json* options = fields.find("method_options");
  if (!options) return;
  if (!options->is_object()) throw invalid("method_options: must be an object", "method_options");
  for (const auto& [name, value] : options->items()) {
    // A client must not name files of the server's; the operator does (Api::add_method_options).
    if (name == "filter" || name == "prompt_tokens" || name == "tree" || name == "maps")
      throw invalid("method_options: " + name +
                        " names a file, which only the server's options may (tutti serve -o)",
                    "method_options");
    if (value.is_string()) {
      o.method_options[name] = value;
    } else if (value.is_boolean()) {
      o.method_options[name] = value.get<bool>() ? "1" : "0";
    } else if (value.is_number()) {
      o.method_options[name] = value.dump();
    } else {
      throw invalid("method_options: " + name + " must be a string, a number or a boolean",
                    "method_options");
    }
  }
}

void read_stream(Fields& fields, TextRequest& request) {
  request.stream = fields.flag("stream", false);
  const Json* options = fields.find("stream_options");
  if (!options) return;
  if (!request.stream)
    throw invalid("stream_options: goes with \"stream\": true", "stream_options");
  if (!options->is_object()) throw invalid("stream_options: must be an object", "stream_options");
  Fields inner(*options);
  request.include_usage = inner.flag("include_usage", false);
}

// What the chat templates take.
void read_message(Json& message, size_t index, const RequestLimits& limits, TextRequest& request) {
  const std::string place = "messages[" + std::to_string(index) + "]";
  if (!message.is_object()) throw invalid(place + ": must be an object", "messages");
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string())
    throw invalid(place + ".role: must be a string", "messages");
  if (*role == "developer") *role = "system";
  if (*role == "function")
    throw unsupported(place + ": functions of this kind are not supported; use tools", "messages");
  if (const auto calls = message.find("tool_calls"); calls != message.end()) {
    if (calls->is_null() || (calls->is_array() && calls->empty())) {
      message.erase("tool_calls");
    } else {
      read_tool_calls(message, place, limits.depth);
      if (const auto said = message.find("content"); said == message.end() || said->is_null())
        message["content"] = "";
    }
  }
  const auto content = message.find("content");
  if (content == message.end() || content->is_null())
    throw invalid(place + ".content: is missing; give a string", "messages");
  if (content->is_string()) return;
  if (!content->is_array())
    throw invalid(place + ".content: must be a string or an array of parts", "messages");
  const size_t before = request.images.size();
  read_parts(*content, place + ".content", size_t(limits.images), request.images);
  if (request.images.size() > before && message["role"] != "user")
    throw invalid(place + ".content: images are taken from messages of the user alone", "messages");
}

void read_messages(Fields& fields, const RequestLimits& limits, TextRequest& request) {
  const Json* messages = fields.find("messages");
  if (!messages || !messages->is_array() || messages->empty()) {
    throw invalid("messages: must be an array of at least one message", "messages");
  }
  request.messages = *messages;
  for (size_t i = 0; i < request.messages.size(); ++i)
    read_message(request.messages[i], i, limits, request);
  request.add_generation_prompt = fields.flag("add_generation_prompt", true);
  if (const Json* options = fields.find("chat_template_kwargs")) {
    if (!options->is_object())
      throw invalid("chat_template_kwargs: must be an object", "chat_template_kwargs");
    request.template_options = *options;
  }
  request.tools = read_tools(fields);
  if (request.tools.forced() && request.grammar)
    throw invalid("tool_choice: asks for a call where the text must be something else; give one",
                  "tool_choice");
  if (request.tools.forced()) {
    const size_t bytes =
        request.tools.tools.dump(-1, ' ', false, Json::error_handler_t::replace).size();
    if (bytes > limits.grammar_bytes)
      throw invalid("tools: have " + std::to_string(bytes) + " bytes; a call can be enforced for " +
                        std::to_string(limits.grammar_bytes),
                    "tools");
  }
  const bool logprobs = fields.flag("logprobs", false);
  const auto top = fields.integer({"top_logprobs"}, 0, 20);
  if (top && !logprobs) throw invalid("top_logprobs: goes with \"logprobs\": true", "top_logprobs");
  if (logprobs) request.options.sampling.logprobs = int(top.value_or(0));
}

void read_completion(Fields& fields, const RequestLimits& limits, TextRequest& request) {
  request.prompts = read_prompts(fields, "prompt", size_t(limits.prompts));
  request.echo = fields.flag("echo", false);
  if (const auto top = fields.integer({"logprobs"}, 0, 20))
    request.options.sampling.logprobs = int(*top);
  if (const auto best = fields.integer({"best_of"}, 1, limits.choices);
      best && *best != request.options.n) {
    if (*best < request.options.n) throw invalid("best_of: is below n", "best_of");
    throw unsupported("best_of: is not supported beside another n; leave it out", "best_of");
  }
}

}  // namespace

std::vector<TextRequest::Prompt> read_prompts(Fields& fields, const std::string& field,
                                              size_t most) {
  const Json* given = fields.find(field);
  if (!given)
    throw invalid(field + ": is missing; give a string, token ids, or an array of either", field);
  std::vector<TextRequest::Prompt> prompts;
  const auto add = [&](const Json& one) {
    TextRequest::Prompt& p = prompts.emplace_back();
    if (one.is_string()) {
      p.text = one;
    } else if (one.is_array() && !one.empty()) {
      for (const Json& id : one) {
        if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
          throw invalid(field + ": token ids must be whole numbers from 0", field);
      }
      p.ids = one.get<std::vector<int32_t>>();
    } else {
      throw invalid(field + ": must be a string, token ids, or an array of either", field);
    }
  };
  if (given->is_array() && !given->empty() && !given->front().is_number()) {
    if (given->size() > most) {
      throw invalid(field + ": has " + std::to_string(given->size()) + " entries; give at most " +
                        std::to_string(most),
                    field);
    }
    for (const Json& one : *given) add(one);
  } else {
    add(*given);
  }
  return prompts;
}

Json read_body(std::string_view body, int depth) {
  check_json(body, depth);
  Json json = Json::parse(body);
  if (!json.is_object()) throw invalid("body: must be a JSON object");
  return json;
}

TextRequest read_text_request(TextRequest::Kind kind, std::string_view body,
                              const RequestLimits& limits, FieldLog* log) {
  const Json json = read_body(body, limits.depth);
  Fields fields(json, log);
  TextRequest request;
  request.kind = kind;
  request.model = fields.text("model");
  decode::GenerationOptions& o = request.options;
  const int64_t most = limits.max_tokens > 0 ? limits.max_tokens : INT32_MAX;
  const int64_t least = kind == TextRequest::Kind::kCompletion ? 0 : 1;
  // -1, llama.cpp's: as many as fit.
  const auto tokens = fields.integer({"max_completion_tokens", "max_tokens"}, -1, INT32_MAX);
  if (tokens && *tokens >= 0 && *tokens < least)
    throw invalid("max_tokens: must be at least 1, or -1 for as many as fit", "max_tokens");
  if (tokens && *tokens > most) {
    throw invalid("max_tokens: " + std::to_string(*tokens) + " is more than this server allows, " +
                      std::to_string(most),
                  "max_tokens");
  }
  const int64_t all = limits.max_tokens > 0 ? limits.max_tokens : -1;
  const int64_t absent = kind == TextRequest::Kind::kCompletion ? 16 : all;
  o.max_tokens = int(tokens == -1 ? all : tokens.value_or(absent));
  o.n = int(fields.integer({"n"}, 1, limits.choices).value_or(1));
  if (const auto seed = fields.integer({"seed"}, INT64_MIN, INT64_MAX)) o.seed = uint64_t(*seed);
  o.ignore_eos = fields.flag("ignore_eos", false);
  if (const std::string salt = fields.text("cache_salt"); !salt.empty())
    o.cache_salt = xxh64(std::as_bytes(std::span(salt)));
  read_sampling(fields, o.sampling);
  read_stops(fields, limits, o);
  read_method(fields, o);
  read_grammar(fields, limits, request.grammar);
  read_stream(fields, request);
  if (kind == TextRequest::Kind::kChat) {
    read_messages(fields, limits, request);
    fields.refuse({"functions", "function_call", "audio", "web_search_options"});
  } else {
    read_completion(fields, limits, request);
    fields.refuse({"suffix"});
  }
  fields.refuse({"stop_token_ids", "min_tokens", "include_stop_str_in_output",
                 "continue_final_message", "chat_template", "logit_processors", "prompt_logprobs",
                 "use_beam_search"});
  fields.text("user");  // checked, and read by nobody
  fields.ignore({"reasoning_effort", "store", "metadata", "service_tier", "modalities",
                 "prediction", "cache_prompt", "skip_special_tokens", "priority",
                 "prompt_cache_key", "safety_identifier", "verbosity"});
  request.unknown = fields.unknown();
  if (limits.strict) fields.refuse_unknown();
  return request;
}

}  // namespace tutti::serve
