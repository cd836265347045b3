// The values a chat template computes with: Python's, as far as published templates rely on them.
// Everything but a Namespace is immutable once made, so values share their storage freely.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "text/jinja_budget.h"

namespace tutti::text::jinja {

class Value;
class Renderer;
struct Loop;

// Arguments of a call, filter or test: f(positional..., name=value...).
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct None {};

// The result of looking up what is not there. Prints as "", is false and empty; any other use is an
// error that starts with `what`.
struct Undefined {
  std::shared_ptr<const std::string> what;
};

// UTF-8 text. `markup` marks text declared safe by |safe or |escape: adding plain text to it
// escapes that.
struct Text {
  std::shared_ptr<const std::string> bytes;
  bool markup = false;
};

struct Array;
struct Dict;
struct Namespace;
struct Callable;

class Value {
 public:
  using Store = std::variant<Undefined, None, bool, int64_t, double, Text,
                             std::shared_ptr<const Array>, std::shared_ptr<const Dict>, Namespace*,
                             std::shared_ptr<const Callable>, std::shared_ptr<Loop>>;

  Value() = default;  // undefined
  Value(None v) : store_(v) {}
  Value(bool v) : store_(v) {}
  Value(int v) : store_(int64_t(v)) {}
  Value(int64_t v) : store_(v) {}
  Value(double v) : store_(v) {}
  Value(const char* v) : Value(std::string(v)) {}
  Value(std::string v, bool markup = false)
      : store_(Text{std::make_shared<const std::string>(std::move(v)), markup}) {}
  Value(Namespace* v) : store_(v) {}
  Value(std::shared_ptr<const Array> v) : store_(std::move(v)) {}
  Value(std::shared_ptr<const Dict> v) : store_(std::move(v)) {}
  Value(std::shared_ptr<const Callable> v) : store_(std::move(v)) {}
  Value(std::shared_ptr<Loop> v) : store_(std::move(v)) {}
  static Value undefined(std::string what);

  bool is_undefined() const { return std::holds_alternative<Undefined>(store_); }
  bool is_none() const { return std::holds_alternative<None>(store_); }
  bool is_bool() const { return std::holds_alternative<bool>(store_); }
  bool is_int() const { return std::holds_alternative<int64_t>(store_); }
  bool is_float() const { return std::holds_alternative<double>(store_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_string() const { return std::holds_alternative<Text>(store_); }
  bool is_markup() const { return is_string() && std::get<Text>(store_).markup; }

  const std::string& text() const { return *std::get<Text>(store_).bytes; }
  int64_t integer() const {
    return is_bool() ? int64_t(std::get<bool>(store_)) : std::get<int64_t>(store_);
  }
  double real() const { return is_float() ? std::get<double>(store_) : double(integer()); }
  // Null when the value is of another kind.
  const Array* array() const { return pointer<Array>(); }
  const Dict* dict() const { return pointer<Dict>(); }
  const Callable* callable() const { return pointer<Callable>(); }
  Namespace* names() const;
  std::shared_ptr<Loop> loop() const;
  const Store& store() const { return store_; }

  bool truthy() const;
  // The name Python gives the type, for messages.
  std::string type_name() const;
  // Nesting below this value: 0 for scalars. Bounded by kMaxDepth when containers are made.
  int depth() const;

 private:
  template <typename T>
  const T* pointer() const {
    const auto* p = std::get_if<std::shared_ptr<const T>>(&store_);
    return p ? p->get() : nullptr;
  }
  Store store_;
};

constexpr int kMaxDepth = 200;  // of nested containers

enum class Flavour : uint8_t { kList, kTuple, kView, kRange, kGenerator };

// An ordered collection. Views are what dict.keys() and its like return; a generator can be read
// once.
struct Array {
  Flavour flavour = Flavour::kList;
  std::vector<Value> items;
  std::string label;  // how a view, range or generator names itself when printed
  int depth = 1;
  mutable bool consumed = false;  // of a generator
  // A generator computes its items when it is read, and fails only then.
  std::function<std::vector<Value>()> produce;
};

// Python's dict: insertion order, keys of any hashable type.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;

  // Null when absent.
  const Value* find(const std::string& key) const;
  const Value* find(const Value& key, Budget& budget) const;
  void set(const Value& key, const Value& value, Budget& budget);

 private:
  std::unordered_map<std::string, size_t> index_;  // of text keys, once there are many
};

// The one mutable value. Namespaces are owned by the renderer, not by the values that name them, so
// that a namespace that holds itself is no leak.
struct Namespace {
  Dict attributes;
};

struct Callable {
  std::string name;
  std::function<Value(Renderer&, Args)> call;
  int depth = 1;
};

// Throws kUsage with what the undefined value says of itself; does nothing for others.
void require_defined(const Value& v);
// Throws kUsage: what Python would raise as TypeError, ValueError and so on.
[[noreturn]] void fail(const std::string& message);

Value make_array(std::vector<Value> items, Flavour flavour = Flavour::kList,
                 std::string label = "");
Value make_tuple(std::vector<Value> items);
Value make_generator(int depth, std::function<std::vector<Value>()> produce);
Value make_dict(Dict dict);
Value make_callable(std::string name, int depth, std::function<Value(Renderer&, Args)> call);
// Throws kLimit for nesting beyond kMaxDepth, integers beyond 64 bits.
Value from_json(const nlohmann::ordered_json& json);

bool equal(const Value& a, const Value& b, Budget& budget);
// Order of a against b: negative, 0, positive. Throws when Python refuses ('<' between int and str
// ...).
int order(const Value& a, const Value& b, Budget& budget);
// The stable order of `keys`, as indices. Like Python's sort it ends well on inconsistent orders
// (NaN).
std::vector<size_t> sorted_order(const std::vector<Value>& keys, bool descending, Budget& budget);
// Lists, dicts and namespaces cannot be keys.
void require_hashable(const Value& v);

// The elements iteration yields: items, keys of a dict, characters of a text. Consumes a generator.
// Throws when the value is not iterable.
std::vector<Value> iterate(const Value& v, Budget& budget);
bool is_iterable(const Value& v);
// len(v); throws when it has none.
int64_t length(const Value& v);
// needle in haystack
bool contains(const Value& haystack, const Value& needle, Budget& budget);

}  // namespace tutti::text::jinja
