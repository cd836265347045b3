#include "serve/json_bounds.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "serve/api_error.h"

namespace tutti::serve {
namespace {

using Json = nlohmann::ordered_json;

// A pass of its own: the library's parser with a callback, which could count as well, looks through
// all earlier elements of an array at the end of each object in it.
class Bounds final : public nlohmann::json_sax<Json> {
 public:
  explicit Bounds(int depth) : depth_(depth) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t&) override {
    constexpr size_t kMostKeys = 4096;
    if (++keys_.back() > kMostKeys)
      throw invalid("body: has an object of more than " + std::to_string(kMostKeys) + " keys");
    return true;
  }
  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string what = error.what();
    if (const size_t bracket = what.find("] "); bracket != std::string::npos)
      what.erase(0, bracket + 2);
    for (char& c : what) {
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    }
    throw invalid("body: is no JSON (" + what + ")");
  }

 private:
  bool open() {
    keys_.push_back(0);
    if (keys_.size() > size_t(depth_))
      throw invalid("body: is nested deeper than " + std::to_string(depth_) + " levels");
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  int depth_;
  std::vector<size_t> keys_;  // so far, of each array or object that is open
};

}  // namespace

void check_json(std::string_view body, int depth) {
  Bounds bounds(depth);
  Json::sax_parse(body, &bounds);
}

}  // namespace tutti::serve
