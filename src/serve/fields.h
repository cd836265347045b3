// The fields of a JSON object that a client sent: each read once, checked, and its name kept, so
// that what nobody read is known, and what can be read can be told (openapi.h).
#pragma once

#include <cmath>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace tutti::serve {

// Every field that was asked for, with the JSON schema that its reader goes by: {} for values whose
// reader has rules of its own.
using FieldLog = std::map<std::string, nlohmann::ordered_json>;

class Fields {
 public:
  using Json = nlohmann::ordered_json;

  explicit Fields(const Json& object, FieldLog* log = nullptr) : object_(object), log_(log) {}

  // Null counts as absent, as OpenAI's clients send it.
  const Json* find(const std::string& name) { return find(name, Json::object()); }
  // The first of several names for the same thing; two of them at once are refused.
  const Json* first_of(std::initializer_list<const char*> names, std::string& used,
                       const Json& schema);
  bool flag(const std::string& name, bool absent);
  std::string text(const std::string& name, const std::string& absent = "");
  std::optional<double> number(std::initializer_list<const char*> names, double least, double most);
  std::optional<int64_t> integer(std::initializer_list<const char*> names, int64_t least,
                                 int64_t most);
  // Known to others and not to us: an answer that ignored them would be wrong.
  void refuse(std::initializer_list<const char*> names);
  // Known, and without effect here.
  void ignore(std::initializer_list<const char*> names);
  std::vector<std::string> unknown() const;
  // Throws ApiError(400) that names one, if there is any.
  void refuse_unknown() const;

 private:
  const Json* find(const std::string& name, const Json& schema);
  void log(const std::string& name, const Json& schema) {
    if (log_) log_->emplace(name, schema);
  }

  const Json& object_;
  FieldLog* log_;
  std::set<std::string> read_;
};

}  // namespace tutti::serve
