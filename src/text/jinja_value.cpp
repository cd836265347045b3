#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

constexpr size_t kIndexFrom = 12;  // entries from which a dict keeps an index

int checked_depth(int children) {
  if (children + 1 > kMaxDepth) {
    throw Error(ErrorKind::kLimit, "values nest deeper than " + std::to_string(kMaxDepth));
  }
  return children + 1;
}

bool ordered_sequences(const Array& a, const Array& b) {
  return a.flavour == b.flavour && (a.flavour == Flavour::kList || a.flavour == Flavour::kTuple);
}

}  // namespace

void fail(const std::string& message) { throw Error(ErrorKind::kUsage, message); }

void require_defined(const Value& v) {
  if (const auto* u = std::get_if<Undefined>(&v.store()))
    fail(u->what ? *u->what : "undefined value");
}

Value Value::undefined(std::string what) {
  Value v;
  v.store_ = Undefined{std::make_shared<const std::string>(std::move(what))};
  return v;
}

Namespace* Value::names() const {
  const auto* p = std::get_if<Namespace*>(&store_);
  return p ? *p : nullptr;
}

std::shared_ptr<Loop> Value::loop() const {
  const auto* p = std::get_if<std::shared_ptr<Loop>>(&store_);
  return p ? *p : nullptr;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return std::get<bool>(store_);
  if (is_int()) return std::get<int64_t>(store_) != 0;
  if (is_float()) return std::get<double>(store_) != 0;
  if (is_string()) return !text().empty();
  if (const Array* a = array()) return a->flavour == Flavour::kGenerator || !a->items.empty();
  if (const Dict* d = dict()) return !d->entries.empty();
  return true;
}

std::string Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return is_markup() ? "Markup" : "str";
  if (const Array* a = array()) {
    switch (a->flavour) {
      case Flavour::kList:
        return "list";
      case Flavour::kTuple:
        return "tuple";
      case Flavour::kView:
        return a->label;
      case Flavour::kRange:
        return "range";
      case Flavour::kGenerator:
        return "generator";
    }
  }
  if (dict()) return "dict";
  if (names()) return "namespace";
  return loop() ? "LoopContext" : "function";
}

int Value::depth() const {
  if (const Array* a = array()) return a->depth;
  if (const Dict* d = dict()) return d->depth;
  if (const Callable* c = callable()) return c->depth;
  if (const auto l = loop()) return l->depth;
  return 0;
}

const Value* Dict::find(const std::string& key) const {
  if (!index_.empty()) {
    const auto it = index_.find(key);
    return it == index_.end() ? nullptr : &entries[it->second].second;
  }
  for (const auto& [k, v] : entries) {
    if (k.is_string() && k.text() == key) return &v;
  }
  return nullptr;
}

const Value* Dict::find(const Value& key, Budget& budget) const {
  if (key.is_string()) return find(key.text());
  require_hashable(key);
  for (const auto& [k, v] : entries) {
    if (!k.is_string() && equal(k, key, budget)) return &v;
  }
  return nullptr;
}

void Dict::set(const Value& key, const Value& value, Budget& budget) {
  depth = std::max(depth, checked_depth(std::max(value.depth(), key.depth())));
  if (const Value* old = find(key, budget)) {
    for (auto& [k, v] : entries) {
      if (&v == old) {
        v = value;
        return;
      }
    }
  }
  entries.emplace_back(key, value);
  if (entries.size() == kIndexFrom) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].first.is_string()) index_.emplace(entries[i].first.text(), i);
    }
    index_.emplace(std::string("\0none", 5), entries.size());  // never empty from here on
  } else if (entries.size() > kIndexFrom && key.is_string()) {
    index_[key.text()] = entries.size() - 1;
  }
}

Value make_array(std::vector<Value> items, Flavour flavour, std::string label) {
  auto array = std::make_shared<Array>();
  int children = 0;
  for (const Value& item : items) children = std::max(children, item.depth());
  array->depth = checked_depth(children);
  array->flavour = flavour;
  array->items = std::move(items);
  array->label = std::move(label);
  return Value(std::shared_ptr<const Array>(std::move(array)));
}

Value make_tuple(std::vector<Value> items) { return make_array(std::move(items), Flavour::kTuple); }

Value make_generator(int depth, std::function<std::vector<Value>()> produce) {
  auto array = std::make_shared<Array>();
  array->flavour = Flavour::kGenerator;
  array->label = "<generator object>";
  array->depth = checked_depth(depth);
  array->produce = std::move(produce);
  return Value(std::shared_ptr<const Array>(std::move(array)));
}

Value make_dict(Dict dict) {
  return Value(std::shared_ptr<const Dict>(std::make_shared<Dict>(std::move(dict))));
}

Value make_callable(std::string name, int depth, std::function<Value(Renderer&, Args)> call) {
  return Value(std::shared_ptr<const Callable>(std::make_shared<Callable>(
      Callable{std::move(name), std::move(call), checked_depth(depth)})));
}

namespace {

Value from_json_at(const nlohmann::ordered_json& json, int level, Budget& budget) {
  using T = nlohmann::ordered_json::value_t;
  if (level > kMaxDepth) checked_depth(kMaxDepth);
  switch (json.type()) {
    case T::boolean:
      return Value(json.get<bool>());
    case T::number_integer:
      return Value(json.get<int64_t>());
    case T::number_unsigned: {
      if (json.get<uint64_t>() > uint64_t(INT64_MAX)) {
        throw Error(ErrorKind::kLimit, "an integer beyond 64 bits");
      }
      return Value(json.get<int64_t>());
    }
    case T::number_float:
      return Value(json.get<double>());
    case T::string:
      return Value(json.get_ref<const std::string&>());
    case T::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json_at(item, level + 1, budget));
      return make_array(std::move(items));
    }
    case T::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) {
        dict.set(Value(key), from_json_at(value, level + 1, budget), budget);
      }
      return make_dict(std::move(dict));
    }
    default:
      return Value(None{});
  }
}

}  // namespace

Value from_json(const nlohmann::ordered_json& json) {
  Budget budget{Limits{}};
  return from_json_at(json, 0, budget);
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? a.integer() == b.integer() : a.real() == b.real();
  }
  if (a.is_string() && b.is_string()) return a.text() == b.text();
  if (a.is_undefined() || a.is_none()) return a.store().index() == b.store().index();
  if (const Array *x = a.array(), *y = b.array(); x && y) {
    if (x == y) return true;
    const bool ranges = x->flavour == Flavour::kRange && y->flavour == Flavour::kRange;
    const bool views = x->flavour == Flavour::kView && y->flavour == Flavour::kView &&
                       x->label != "dict_values" && y->label != "dict_values";
    if (!ordered_sequences(*x, *y) && !ranges && !views) return false;
    if (x->items.size() != y->items.size()) return false;
    for (size_t i = 0; i < x->items.size(); ++i) {
      if (views ? !contains(b, x->items[i], budget) : !equal(x->items[i], y->items[i], budget)) {
        return false;
      }
    }
    return true;
  }
  if (const Dict *x = a.dict(), *y = b.dict(); x && y) {
    if (x == y) return true;
    if (x->entries.size() != y->entries.size()) return false;
    for (const auto& [key, value] : x->entries) {
      const Value* other = y->find(key, budget);
      if (!other || !equal(value, *other, budget)) return false;
    }
    return true;
  }
  if (a.names() && b.names()) return a.names() == b.names();
  if (a.callable() && b.callable()) return a.callable() == b.callable();
  return false;
}

int order(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral())
      return (a.integer() > b.integer()) - (a.integer() < b.integer());
    return (a.real() > b.real()) - (a.real() < b.real());
  }
  if (a.is_string() && b.is_string()) return a.text().compare(b.text());
  if (const Array *x = a.array(), *y = b.array(); x && y && ordered_sequences(*x, *y)) {
    const size_t common = std::min(x->items.size(), y->items.size());
    for (size_t i = 0; i < common; ++i) {
      if (!equal(x->items[i], y->items[i], budget)) return order(x->items[i], y->items[i], budget);
    }
    return (x->items.size() > y->items.size()) - (x->items.size() < y->items.size());
  }
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) require_defined(*v);
  }
  fail("no order between '" + a.type_name() + "' and '" + b.type_name() + "'");
}

std::vector<size_t> sorted_order(const std::vector<Value>& keys, bool descending, Budget& budget) {
  std::vector<size_t> now(keys.size()), next(keys.size());
  std::iota(now.begin(), now.end(), size_t(0));
  for (size_t width = 1; width < keys.size(); width *= 2) {
    for (size_t start = 0; start < keys.size(); start += 2 * width) {
      const size_t middle = std::min(start + width, keys.size());
      const size_t end = std::min(start + 2 * width, keys.size());
      size_t a = start, b = middle;
      for (size_t out = start; out < end; ++out) {
        bool right = a == middle;
        if (!right && b < end) {
          const int sign = order(keys[now[b]], keys[now[a]], budget);
          right = descending ? sign > 0 : sign < 0;
        }
        next[out] = right ? now[b++] : now[a++];
      }
    }
    now.swap(next);
  }
  return now;
}

void require_hashable(const Value& v) {
  const Array* a = v.array();
  if (v.dict() || (a && (a->flavour == Flavour::kList || a->flavour == Flavour::kView))) {
    fail("unhashable type: '" + v.type_name() + "'");
  }
  if (a && a->flavour == Flavour::kTuple) {
    for (const Value& item : a->items) require_hashable(item);
  }
}

std::vector<Value> iterate(const Value& v, Budget& budget) {
  if (v.is_undefined()) return {};
  if (const Array* a = v.array()) {
    budget.step(a->items.size());
    budget.make(a->items.size(), sizeof(Value));
    if (a->flavour == Flavour::kGenerator) {
      if (a->consumed) return {};
      a->consumed = true;
      if (a->produce) return a->produce();
    }
    return a->items;
  }
  std::vector<Value> items;
  if (const Dict* d = v.dict()) {
    budget.step(d->entries.size());
    budget.make(d->entries.size(), sizeof(Value));
    for (const auto& entry : d->entries) items.push_back(entry.first);
    return items;
  }
  if (v.is_string()) {
    budget.step(v.text().size());
    budget.make(v.text().size(), 96);  // a character is a text of its own
    for (const std::string_view c : characters(v.text())) items.emplace_back(std::string(c));
    return items;
  }
  fail("'" + v.type_name() + "' object is not iterable");
}

bool is_iterable(const Value& v) {
  return v.is_undefined() || v.array() || v.dict() || v.is_string() || v.loop();
}

int64_t length(const Value& v) {
  if (v.is_undefined()) return 0;
  if (v.is_string()) return int64_t(count_characters(v.text()));
  if (const Array* a = v.array(); a && a->flavour != Flavour::kGenerator)
    return int64_t(a->items.size());
  if (const Dict* d = v.dict()) return int64_t(d->entries.size());
  if (const auto l = v.loop()) return l->items().size();
  fail("object of type '" + v.type_name() + "' has no len()");
}

bool contains(const Value& haystack, const Value& needle, Budget& budget) {
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      fail("'in <string>' requires string as left operand, not " + needle.type_name());
    }
    budget.search(haystack.text().size(), needle.text().size());
    return haystack.text().find(needle.text()) != std::string::npos;
  }
  if (const Dict* d = haystack.dict()) return d->find(needle, budget) != nullptr;
  if (haystack.is_undefined()) return false;
  if (const Array* a = haystack.array(); a && a->flavour != Flavour::kGenerator) {
    for (const Value& item : a->items) {
      if (equal(item, needle, budget)) return true;
    }
    return false;
  }
  for (const Value& item : iterate(haystack, budget)) {
    if (equal(item, needle, budget)) return true;
  }
  return false;
}

}  // namespace tutti::text::jinja
