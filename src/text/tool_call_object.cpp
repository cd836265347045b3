// The object of a call, {"name": …, "arguments": …}, character by character.
#include <nlohmann/json.hpp>

#include "text/tool_call_parser.h"

namespace tutti::text {
namespace {

// The text of a JSON string, quotes included; false: it is none.
bool unquote(const std::string& json, std::string& out) {
  const auto value = nlohmann::json::parse(json, nullptr, false);
  if (!value.is_string()) return false;
  out = value.get<std::string>();
  return true;
}

}  // namespace

void ToolCallParser::begin_object() {
  state_ = State::kObject;
  place_ = Place::kOpen;
  key_.clear();
  value_.clear();
  name_.clear();
  id_.clear();
  held_arguments_.clear();
  has_name_ = has_arguments_ = begun_ = false;
}

ToolCallParser::Step ToolCallParser::object(ToolText& out) {
  // What has begun is no content any more; until then all of it may become some.
  size_t n = 0;
  while (n < buffer_.size() && state_ == State::kObject) {
    const char c = buffer_[n];
    if (!begun_) raw_ += c;
    if (!object_character(c, out)) {
      if (begun_) {
        take(n);
        end_call();
        state_ = State::kText;
      } else {
        take(n + 1);
        give_up(out);
      }
      return Step::kGoOn;
    }
    ++n;
  }
  take(n);
  return Step::kGoOn;
}

bool ToolCallParser::object_character(char c, ToolText& out) {
  if (place_ == Place::kKeyText) {
    key_ += c;
    const auto step = span_.push(c);
    if (step == JsonValueSpan::Step::kLast) {
      std::string text;
      if (!unquote(key_, text)) return false;
      key_ = text;
      place_ = Place::kColon;
    }
    return true;
  }
  if (place_ == Place::kInValue) {
    const auto step = span_.push(c);
    if (step == JsonValueSpan::Step::kBad) return false;
    if (step != JsonValueSpan::Step::kBehind) {
      const bool streams = key_ == "arguments" || key_ == "parameters";
      if (streams && span_.kind() == '{') {
        add_arguments({&c, 1}, out);
      } else {
        value_ += c;
      }
      if (step == JsonValueSpan::Step::kInside) return true;
      return value_ends(out);
    }
    if (!value_ends(out)) return false;  // and `c` stands behind it
  }
  if (is_json_blank(c)) return true;
  switch (place_) {
    case Place::kOpen:
      place_ = Place::kKeyOrEnd;
      return c == '{';
    case Place::kKeyOrEnd:
    case Place::kKey:
      if (c == '"') {
        key_ = c;
        span_ = {};
        span_.push(c);
        place_ = Place::kKeyText;
        return true;
      }
      if (c != '}' || place_ == Place::kKey) return false;
      break;
    case Place::kColon:
      place_ = Place::kValue;
      return c == ':';
    case Place::kValue:
      span_ = {};
      value_ = c;
      if (span_.push(c) == JsonValueSpan::Step::kBad) return false;
      place_ = Place::kInValue;
      if ((key_ == "arguments" || key_ == "parameters") && c == '{') {
        if (has_arguments_) return false;
        has_arguments_ = true;
        if (has_name_) begin_call(out);
        value_.clear();
        add_arguments("{", out);
      }
      return true;
    case Place::kCommaOrEnd:
      if (c == ',') {
        place_ = Place::kKey;
        return true;
      }
      if (c != '}') return false;
      break;
    default:
      return false;
  }
  // The object ends.
  if (!has_name_) return false;
  if (!begun_) begin_call(out);
  if (!has_arguments_) add_arguments("{}", out);
  end_call();
  state_ = in_array_ ? State::kArray : State::kBehind;
  return true;
}

// A value of the object is whole; false: it is not what its key asks for.
bool ToolCallParser::value_ends(ToolText& out) {
  place_ = Place::kCommaOrEnd;
  if (key_ == "name") {
    if (has_name_ || !unquote(value_, name_) || !is_tool_name(name_)) return false;
    if (bare_ && !names_.contains(name_)) return false;
    has_name_ = true;
    if (has_arguments_) begin_call(out);
  } else if (key_ == "id") {
    if (!unquote(value_, id_)) id_.clear();
  } else if (key_ == "arguments" || key_ == "parameters") {
    if (span_.kind() == '{') return true;
    if (has_arguments_) return false;
    std::string text;
    if (value_ == "null") {
      text = "{}";
    } else if (!unquote(value_, text)) {
      return false;
    }
    has_arguments_ = true;
    if (has_name_) begin_call(out);
    add_arguments(text, out);
  }
  return true;
}

}  // namespace tutti::text
