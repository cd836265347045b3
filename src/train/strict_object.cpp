#include "train/strict_object.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/error.h"
#include "formats/shown.h"

namespace tutti::train {
namespace {

std::string text_of(double number) {
  std::ostringstream out;
  out << number;
  return out.str();
}

std::string listed(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

}  // namespace

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = int(i + j);
        continue;
      }
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + int(a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

StrictObject::StrictObject(const nlohmann::json& value, std::string place)
    : value_(value), place_(std::move(place)) {
  if (!value.is_object())
    throw Error(ErrorKind::kBadFile, place_ + ": is no object; write it in { }");
}

void StrictObject::bad(const std::string& key, const std::string& what) const {
  throw Error(ErrorKind::kBadFile, place_ + ": key \"" + key + "\" " + what);
}

const nlohmann::json* StrictObject::find(const std::string& key) {
  known_.insert(key);
  const auto it = value_.find(key);
  return it == value_.end() ? nullptr : &*it;
}

bool StrictObject::has(const std::string& key) { return find(key) != nullptr; }

double StrictObject::number(const std::string& key, double low, double high,
                            std::optional<double> otherwise) {
  const nlohmann::json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value) bad(key, "is missing; give a number from " + text_of(low) + " to " + text_of(high));
  if (!value->is_number()) bad(key, "is no number");
  const auto number = value->get<double>();
  if (!(number >= low && number <= high)) {
    bad(key,
        "is " + text_of(number) + "; give a number from " + text_of(low) + " to " + text_of(high));
  }
  return number;
}

int64_t StrictObject::integer(const std::string& key, int64_t low, int64_t high,
                              std::optional<int64_t> otherwise) {
  const nlohmann::json* value = find(key);
  if (!value && otherwise) return *otherwise;
  const std::string range =
      "give a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value) bad(key, "is missing; " + range);
  if (!value->is_number_integer()) bad(key, "is no whole number; " + range);
  const bool fits = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= uint64_t(std::max<int64_t>(high, 0))
                        : true;
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    bad(key, "is " + value->dump() + "; " + range);
  }
  return value->get<int64_t>();
}

bool StrictObject::flag(const std::string& key, bool otherwise) {
  const nlohmann::json* value = find(key);
  if (!value) return otherwise;
  if (!value->is_boolean()) bad(key, "is neither true nor false");
  return value->get<bool>();
}

std::string StrictObject::text(const std::string& key, std::optional<std::string> otherwise) {
  const nlohmann::json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value) bad(key, "is missing; give a text");
  if (!value->is_string()) bad(key, "is no text");
  return value->get<std::string>();
}

std::string StrictObject::choice(const std::string& key, const std::vector<std::string>& choices,
                                 std::optional<std::string> otherwise) {
  if (!find(key) && !otherwise) bad(key, "is missing; give one of " + listed(choices));
  const std::string value = text(key, otherwise);
  if (std::ranges::find(choices, value) == choices.end()) {
    bad(key, "is " + formats::shown(value) + "; give one of " + listed(choices));
  }
  return value;
}

std::vector<std::string> StrictObject::choices(const std::string& key,
                                               const std::vector<std::string>& known,
                                               const std::vector<std::string>& otherwise) {
  const nlohmann::json* value = find(key);
  if (!value) return otherwise;
  if (!value->is_array() || value->empty()) bad(key, "is no list; give some of " + listed(known));
  std::vector<std::string> out;
  for (const nlohmann::json& one : *value) {
    const std::string name = one.is_string() ? one.get<std::string>() : one.dump();
    if (std::ranges::find(known, name) == known.end()) {
      bad(key, "names " + formats::shown(name) + "; give some of " + listed(known));
    }
    out.push_back(name);
  }
  return out;
}

std::vector<std::string> StrictObject::texts(const std::string& key) {
  const nlohmann::json* value = find(key);
  if (!value) return {};
  if (!value->is_array()) bad(key, "is no list; give a list of texts");
  std::vector<std::string> out;
  for (const nlohmann::json& one : *value) {
    if (!one.is_string()) bad(key, "holds " + formats::shown(one.dump()) + "; give texts");
    out.push_back(one.get<std::string>());
  }
  return out;
}

std::vector<int> StrictObject::integers(const std::string& key, int low, int high) {
  const nlohmann::json* value = find(key);
  const std::string wanted = "give a whole number from " + std::to_string(low) + " to " +
                             std::to_string(high) + ", or a list of such";
  if (!value) bad(key, "is missing; " + wanted);
  std::vector<int> out;
  for (const nlohmann::json& one : value->is_array() ? *value : nlohmann::json::array({*value})) {
    const bool fits =
        one.is_number_integer() &&
        (one.is_number_unsigned() ? one.get<uint64_t>() <= uint64_t(INT64_MAX) : true);
    if (!fits || one.get<int64_t>() < low || one.get<int64_t>() > high)
      bad(key, "holds " + formats::shown(one.dump()) + "; " + wanted);
    out.push_back(one.get<int>());
  }
  if (out.empty()) bad(key, "is empty; " + wanted);
  return out;
}

StrictObject StrictObject::object(const std::string& key) {
  const nlohmann::json* value = find(key);
  if (!value) bad(key, "is missing; give an object");
  return {*value, place_ + ": " + key};
}

void StrictObject::finish() const {
  for (const auto& [key, value] : value_.items()) {
    if (known_.contains(key)) continue;
    const auto nearest = std::ranges::min_element(
        known_, {}, [&](const std::string& other) { return edit_distance(key, other); });
    throw Error(
        ErrorKind::kBadFile,
        place_ + ": key " + formats::shown(key) + " is not known" +
            (nearest == known_.end() ? "" : "; the nearest known one is \"" + *nearest + "\""));
  }
}

}  // namespace tutti::train
