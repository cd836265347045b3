// A JSON object read to the last key: what nobody asked for is a mistake of its writer, and is
// named with the known key that is nearest to it.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace tutti::train {

// Every function throws Error(kBadFile) that names the place and the key: absent without a default,
// of another type, out of range. Call finish() last.
class StrictObject {
 public:
  // `place` is the file, and the path within it: "recipe.json: model". Throws when `value` is no
  // object.
  StrictObject(const nlohmann::json& value, std::string place);

  bool has(const std::string& key);
  int64_t integer(const std::string& key, int64_t low, int64_t high,
                  std::optional<int64_t> otherwise = {});
  // low <= value <= high.
  double number(const std::string& key, double low, double high,
                std::optional<double> otherwise = {});
  bool flag(const std::string& key, bool otherwise);
  std::string text(const std::string& key, std::optional<std::string> otherwise = {});
  std::string choice(const std::string& key, const std::vector<std::string>& choices,
                     std::optional<std::string> otherwise = {});
  std::vector<std::string> choices(const std::string& key, const std::vector<std::string>& known,
                                   const std::vector<std::string>& otherwise);
  // A list of texts; empty where the key is absent.
  std::vector<std::string> texts(const std::string& key);
  // One number or a list of them, at least one.
  std::vector<int> integers(const std::string& key, int low, int high);
  // The object under `key`, whose finish() is the caller's to call.
  StrictObject object(const std::string& key);

  // Throws when a key is left that was never asked for.
  void finish() const;
  [[noreturn]] void bad(const std::string& key, const std::string& what) const;

 private:
  const nlohmann::json* find(const std::string& key);

  const nlohmann::json& value_;
  std::string place_;
  std::set<std::string> known_;
};

// The least number of letters to insert, remove, replace or swap with a neighbour that makes `b` of
// `a`.
int edit_distance(const std::string& a, const std::string& b);

}  // namespace tutti::train
