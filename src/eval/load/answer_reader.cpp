#include "eval/load/answer_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/json_text.h"

namespace tutti::eval {
namespace {

using Json = nlohmann::json;

// Of what a server sends, in a message of one line.
std::string beginning(std::string_view text) {
  std::string out(text.substr(0, 120));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < ' ' || static_cast<unsigned char>(c) > 126) c = ' ';
  }
  return out.empty() ? "nothing" : out;
}

uint64_t count(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
}

bool has_text(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() && !it->get_ref<const std::string&>().empty();
}

// Of a choice, streamed or whole: text, thoughts and calls of tools are all output.
bool says_something(const Json& choice) {
  if (has_text(choice, "text")) return true;
  for (const char* key : {"delta", "message"}) {
    const auto it = choice.find(key);
    if (it == choice.end() || !it->is_object()) continue;
    if (has_text(*it, "content") || has_text(*it, "reasoning_content")) return true;
    const auto calls = it->find("tool_calls");
    if (calls != it->end() && calls->is_array() && !calls->empty()) return true;
  }
  return false;
}

}  // namespace

std::string error_message(std::string_view body) {
  try {
    const Json json = formats::parse_json(body, "error");
    const Json& error = json.is_object() && json.contains("error") ? json["error"] : json;
    if (error.is_string()) return beginning(error.get<std::string>());
    for (const char* key : {"message", "detail"}) {
      if (error.is_object() && has_text(error, key))
        return beginning(error[key].get<std::string>());
    }
  } catch (const Error&) {
  }
  return beginning(body);
}

void AnswerReader::event(std::string_view data, double now) {
  if (!error_.empty()) return;
  if (data == "[DONE]") {
    done_ = true;
    if (!finished_) error_ = "the stream ended without a finish_reason";
    return;
  }
  read(data, now, true);
}

void AnswerReader::whole(std::string_view body) {
  read(body, -1, false);
  if (error_.empty() && !finished_) error_ = "the answer has no finish_reason";
  done_ = true;
}

void AnswerReader::read(std::string_view text, double now, bool streamed) {
  Json json;
  try {
    json = formats::parse_json(text, "answer");
  } catch (const Error&) {
    error_ = "what came is no JSON: " + beginning(text);
    return;
  }
  if (!json.is_object()) {
    error_ = "what came is no JSON object: " + beginning(text);
    return;
  }
  if (const auto it = json.find("error"); it != json.end() && !it->is_null()) {
    error_ = error_message(text);
    return;
  }
  const auto usage = json.find("usage");
  if (usage != json.end() && usage->is_object()) {
    counted_ = true;
    prompt_tokens_ = count(*usage, "prompt_tokens");
    output_tokens_ = count(*usage, "completion_tokens");
    const auto details = usage->find("prompt_tokens_details");
    if (details != usage->end() && details->is_object())
      cached_tokens_ = count(*details, "cached_tokens");
  }
  const auto choices = json.find("choices");
  if (choices == json.end() || !choices->is_array()) {
    if (!counted_) error_ = "what came has no choices: " + beginning(text);
    return;
  }
  bool something = false;
  for (const Json& choice : *choices) {
    if (!choice.is_object()) continue;
    something |= says_something(choice);
    finished_ |= has_text(choice, "finish_reason");
  }
  if (!something) return;
  ++pieces_;
  if (!streamed) return;
  if (first_ < 0) {
    first_ = now;
  } else {
    gaps_.push_back(now - last_);
  }
  last_ = now;
}

}  // namespace tutti::eval
