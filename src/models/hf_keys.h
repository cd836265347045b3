// The keys of a Hugging Face config.json, read with their types and ranges checked.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace tutti::models {

// An object of the file. A null counts as absent. Errors name the place, the key as the file has
// it, and what to do.
class HfKeys {
 public:
  using json = nlohmann::json;
  // Pairs of a common name and the file's own.
  using OwnNames = std::span<const std::pair<std::string_view, const char*>>;

  HfKeys(const json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  // Keys are asked for by their common names; this file has others for some.
  void use_names(OwnNames names) { names_ = names; }
  const json* find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(written(key));
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool empty() const { return object_.empty(); }
  // Present, and explicitly nothing.
  bool is_null(const char* key) const {
    return object_.is_object() && object_.contains(key) && object_.at(key).is_null();
  }
  std::optional<double> number_if(const char* key) const {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_number()) bad(key, "is no number");
    return value->get<double>();
  }
  double number_or(const char* key, double fallback) const {
    return number_if(key).value_or(fallback);
  }
  double number(const char* key) const {
    const auto value = number_if(key);
    if (!value) bad(key, "is missing");
    return *value;
  }
  std::optional<int> integer_if(const char* key) const {
    const auto value = number_if(key);
    if (!value) return std::nullopt;
    if (!(*value >= 0 && *value <= INT32_MAX) || *value != std::floor(*value))
      bad(key, "is out of range");
    return int(*value);
  }
  int integer_or(const char* key, int fallback) const { return integer_if(key).value_or(fallback); }
  int integer(const char* key) const {
    const auto value = integer_if(key);
    if (!value) bad(key, "is missing");
    return *value;
  }
  bool boolean_or(const char* key, bool fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) bad(key, "is neither true nor false");
    return value->get<bool>();
  }
  std::optional<std::string> string_if(const char* key) const {
    const json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_string()) bad(key, "is no text");
    return value->get<std::string>();
  }
  // An object under `key`; without one, an empty object.
  HfKeys object(const char* key) const {
    static const json kEmpty = json::object();
    const json* value = find(key);
    if (!value) return {kEmpty, place_};
    if (!value->is_object()) bad(key, "is no object");
    return {*value, place_};
  }

  [[noreturn]] void bad(const std::string& key, const std::string& what) const {
    throw Error(ErrorKind::kBadFile, place_ + ": key \"" + written(key) + "\" " + what +
                                         "; fix the file or fetch it again");
  }
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const {
    throw Error(ErrorKind::kUnsupported, place_ + ": key \"" + written(key) + "\" " + what +
                                             ", which no network here computes; use another model");
  }

 private:
  std::string written(const std::string& key) const {
    for (const auto& [common, own] : names_) {
      if (key == common) return own;
    }
    return key;
  }

  const json& object_;
  std::string place_;
  OwnNames names_;
};

}  // namespace tutti::models
