#include "formats/json_text.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

using nlohmann::json;

// Builds the value from the parser's events. (The library's own builder keeps the last of two equal
// keys silently and has no bound on depth.)
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, const std::string& name, int depth)
      : text_(text), name_(name), depth_(depth) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool v) override { return add(v); }
  bool number_integer(number_integer_t v) override { return add(v); }
  bool number_unsigned(number_unsigned_t v) override { return add(v); }
  bool number_float(number_float_t v, const string_t&) override { return add(v); }
  bool string(string_t& v) override { return add(std::move(v)); }
  bool binary(binary_t& v) override { return add(std::move(v)); }

  bool start_object(size_t) override { return open(json::object()); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    auto [it, added] = open_.back()->get_ref<json::object_t&>().emplace(key, nullptr);
    if (!added) bad("the key " + shown(key) + " occurs twice in one object; remove one of them");
    member_ = &it->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    const auto before = text_.substr(0, std::min(position, text_.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    bad("is no valid JSON at line " + std::to_string(line) + " (byte " + std::to_string(position) +
        "); the file is damaged or cut short, fetch it again");
  }

 private:
  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorKind::kBadFile, name_ + ": " + what);
  }

  json& place(json&& value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<json::array_t&>();
      array.push_back(std::move(value));
      return array.back();
    }
    return *member_ = std::move(value);
  }
  bool add(json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(json&& value) {
    if (int(open_.size()) >= depth_) {
      bad("is nested deeper than " + std::to_string(depth_) + " levels; this is no model's file");
    }
    // The pointer stays good: a container grows only while it is the innermost open one.
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& name_;
  int depth_;
  json root_;
  std::vector<json*> open_;  // innermost last
  json* member_ = nullptr;   // of the innermost object, waiting for its value
};

}  // namespace

json parse_json(std::string_view text, const std::string& name, int depth) {
  Builder builder(text, name, depth);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace tutti::formats
