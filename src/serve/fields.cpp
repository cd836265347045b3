#include "serve/fields.h"

#include <charconv>

#include "serve/api_error.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

std::string short_number(double x) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;
  return {text, end};
}

}  // namespace

const Json* Fields::find(const std::string& name, const Json& schema) {
  log(name, schema);
  read_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const Json* Fields::first_of(std::initializer_list<const char*> names, std::string& used,
                             const Json& schema) {
  const Json* found = nullptr;
  for (const char* name : names) {
    const Json* value = find(name, schema);
    if (value && found) throw invalid(used + " and " + name + " say the same; give one", name);
    if (value) {
      found = value;
      used = name;
    }
  }
  return found;
}

bool Fields::flag(const std::string& name, bool absent) {
  const Json* value = find(name, {{"type", "boolean"}, {"default", absent}});
  if (!value) return absent;
  if (!value->is_boolean()) throw invalid(name + ": must be true or false", name);
  return value->get<bool>();
}

std::string Fields::text(const std::string& name, const std::string& absent) {
  const Json* value = find(name, {{"type", "string"}});
  if (!value) return absent;
  if (!value->is_string()) throw invalid(name + ": must be a string", name);
  return value->get<std::string>();
}

std::optional<double> Fields::number(std::initializer_list<const char*> names, double least,
                                     double most) {
  std::string name;
  const Json* value =
      first_of(names, name, {{"type", "number"}, {"minimum", least}, {"maximum", most}});
  if (!value) return std::nullopt;
  const double x = value->is_number() ? value->get<double>() : NAN;
  if (!(x >= least && x <= most)) {
    throw invalid(
        name + ": must be a number from " + short_number(least) + " to " + short_number(most),
        name);
  }
  return x;
}

std::optional<int64_t> Fields::integer(std::initializer_list<const char*> names, int64_t least,
                                       int64_t most) {
  std::string name;
  const Json* value =
      first_of(names, name, {{"type", "integer"}, {"minimum", least}, {"maximum", most}});
  if (!value) return std::nullopt;
  const bool whole =
      value->is_number_integer() ||
      (value->is_number_float() && std::floor(value->get<double>()) == value->get<double>());
  const double x = whole ? value->get<double>() : NAN;
  // Floats at the end of int64's range round to a number beyond it.
  const bool fits = value->is_number_integer() || std::fabs(x) <= 9e15;
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t(INT64_MAX);
  if (!(x >= double(least) && x <= double(most)) || !fits || huge) {
    throw invalid(name + ": must be a whole number from " + std::to_string(least) + " to " +
                      std::to_string(most),
                  name);
  }
  return value->is_number_integer() ? value->get<int64_t>() : int64_t(x);
}

void Fields::refuse(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    read_.insert(name);
    const auto value = object_.find(name);
    const bool says_nothing =
        value == object_.end() || value->is_null() || (value->is_array() && value->empty()) ||
        (value->is_string() && value->get_ref<const std::string&>().empty()) ||
        (value->is_boolean() && !value->get<bool>());
    if (!says_nothing)
      throw unsupported(std::string(name) + ": is not supported yet; leave it out", name);
  }
}

void Fields::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) read_.insert(name);
}

std::vector<std::string> Fields::unknown() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_.items()) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

void Fields::refuse_unknown() const {
  const std::vector<std::string> names = unknown();
  if (!names.empty()) throw invalid(names.front() + ": is not known; leave it out", names.front());
}

}  // namespace tutti::serve
