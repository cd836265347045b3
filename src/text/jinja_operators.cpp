#include <algorithm>
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

[[noreturn]] void overflow() { throw Error(ErrorKind::kLimit, "an integer beyond 64 bits"); }

[[noreturn]] void unsupported(const std::string& op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  fail("unsupported operand type(s) for " + op + ": '" + a.type_name() + "' and '" + b.type_name() +
       "'");
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) fail("integer division or modulo by zero");
  if (a == INT64_MIN && b == -1) overflow();
  const int64_t q = a / b;
  return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}

double real_modulo(double a, double b) {
  if (b == 0) fail("float modulo by zero");
  double m = std::fmod(a, b);
  if (m != 0 && (m < 0) != (b < 0)) m += b;
  return m == 0 ? std::copysign(0.0, b) : m;
}

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t out = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) && __builtin_mul_overflow(out, base, &out)) overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return out;
}

Value integers(const std::string& op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+") return __builtin_add_overflow(a, b, &out) ? overflow(), Value() : Value(out);
  if (op == "-") return __builtin_sub_overflow(a, b, &out) ? overflow(), Value() : Value(out);
  if (op == "*") return __builtin_mul_overflow(a, b, &out) ? overflow(), Value() : Value(out);
  if (op == "//") return Value(floor_divide(a, b));
  if (op == "%") {
    if (b == -1) return Value(0);
    return Value(a - floor_divide(a, b) * b);
  }
  if (op == "**") {
    if (b >= 0) return Value(integer_power(a, b));
    if (a == 0) fail("0 cannot be raised to a negative power");
    return Value(std::pow(double(a), double(b)));
  }
  if (b == 0) fail("division by zero");
  return Value(double(a) / double(b));
}

Value reals(const std::string& op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "%") return Value(real_modulo(a, b));
  if (op == "**") {
    if (a == 0 && b < 0) fail("0.0 cannot be raised to a negative power");
    if (a < 0 && b != std::floor(b)) fail("complex numbers are not known");
    const double out = std::pow(a, b);
    if (std::isinf(out) && !std::isinf(a) && !std::isinf(b)) fail("numerical result out of range");
    return Value(out);
  }
  if (b == 0) fail("float division by zero");
  if (op == "/") return Value(a / b);
  const double m = real_modulo(a, b);
  const double q = (a - m) / b;
  const double down = std::floor(q);
  return Value(q - down > 0.5 ? down + 1 : down);
}

Value add_texts(Renderer& r, const Value& a, const Value& b) {
  r.budget().make(a.text().size() + b.text().size());
  if (a.is_markup() == b.is_markup()) return Value(a.text() + b.text(), a.is_markup());
  const std::string left = a.is_markup() ? a.text() : escape_html(a.text());
  return Value(left + (b.is_markup() ? b.text() : escape_html(b.text())), true);
}

Value repeat(Renderer& r, const Value& v, int64_t times) {
  const uint64_t n = times < 0 ? 0 : uint64_t(times);
  if (v.is_string()) {
    r.budget().make(n, v.text().size());
    std::string out;
    if (v.text().empty()) return v;
    out.reserve(n * v.text().size());
    for (uint64_t i = 0; i < n; ++i) out += v.text();
    return Value(std::move(out), v.is_markup());
  }
  const Array& a = *v.array();
  r.budget().make(n, a.items.size() * sizeof(Value));
  std::vector<Value> items;
  for (uint64_t i = 0; i < n && !a.items.empty(); ++i)
    items.insert(items.end(), a.items.begin(), a.items.end());
  return make_array(std::move(items), a.flavour);
}

bool repeatable(const Value& v) {
  return v.is_string() || (v.array() && (v.array()->flavour == Flavour::kList ||
                                         v.array()->flavour == Flavour::kTuple));
}

Value loop_attribute(const std::shared_ptr<Loop>& loop, const std::string& name) {
  const int64_t n = int64_t(loop->items().size()), i = int64_t(loop->index);
  if (name == "index") return Value(i + 1);
  if (name == "index0") return Value(i);
  if (name == "revindex") return Value(n - i);
  if (name == "revindex0") return Value(n - i - 1);
  if (name == "first") return Value(i == 0);
  if (name == "last") return Value(i + 1 == n);
  if (name == "length") return Value(n);
  if (name == "depth") return Value(int64_t(loop->depth0) + 1);
  if (name == "depth0") return Value(int64_t(loop->depth0));
  if (name == "previtem") {
    return i > 0 ? loop->items()[size_t(i) - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return i + 1 < n ? loop->items()[size_t(i) + 1] : Value::undefined("there is no next item");
  }
  if (name == "cycle") {
    return make_callable("cycle", loop->depth, [loop](Renderer&, const Args& args) {
      if (args.positional.empty()) fail("no items for cycling given");
      return args.positional[loop->index % args.positional.size()];
    });
  }
  if (name == "changed") {
    return make_callable("changed", loop->depth, [loop](Renderer& r, Args args) {
      bool same = loop->changed_before && loop->last_changed.size() == args.positional.size();
      for (size_t k = 0; same && k < args.positional.size(); ++k) {
        if (args.positional[k].depth() > kMaxDepth / 2)
          fail("loop.changed() compares flat values only");
        same = equal(loop->last_changed[k], args.positional[k], r.budget());
      }
      for (const Value& v : args.positional) {
        if (v.loop() || v.callable()) fail("loop.changed() compares plain values only");
      }
      loop->changed_before = true;
      loop->last_changed = std::move(args.positional);
      return Value(!same);
    });
  }
  return {};
}

std::string absent(const Value& object, const std::string& name) {
  return "'" + object.type_name() + " object' has no attribute '" + name + "'";
}

// What Python's getattr finds, without what the sandbox hides.
Value python_attribute(const Value& object, const std::string& name) {
  if (const Namespace* n = object.names()) {
    const Value* v = n->attributes.find(name);
    return v ? *v : Value();
  }
  if (const auto loop = object.loop()) return loop_attribute(loop, name);
  if (const Callable* c = object.callable()) return name == "name" ? Value(c->name) : Value();
  return method(object, name);
}

// What Python's object[key] finds; undefined for what raises LookupError or TypeError.
Value python_item(Renderer& r, const Value& object, const Value& key) {
  if (const Dict* d = object.dict()) {
    const Array* a = key.array();
    if (key.dict() || (a && (a->flavour == Flavour::kList || a->flavour == Flavour::kView)))
      return {};
    const Value* v = d->find(key, r.budget());
    return v ? *v : Value();
  }
  if (!key.is_integral()) return {};
  const Array* a = object.array();
  if (a && (a->flavour == Flavour::kView || a->flavour == Flavour::kGenerator)) return {};
  if (!a && !object.is_string()) return {};
  const int64_t n = length(object);
  const int64_t i = key.integer() < 0 ? key.integer() + n : key.integer();
  if (i < 0 || i >= n) return {};
  if (a) return a->items[size_t(i)];
  r.budget().step(is_ascii(object.text()) ? 1 : uint64_t(n) / 16 + 1);
  return Value(slice(object.text(), i, i + 1, 1), object.is_markup());
}

}  // namespace

Value binary(Renderer& r, const std::string& op, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return integers(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return reals(op, a.real(), b.real());
  if (op == "+") {
    if (a.is_string() && b.is_string()) return add_texts(r, a, b);
    const Array *x = a.array(), *y = b.array();
    if (x && y && repeatable(a) && repeatable(b) && x->flavour == y->flavour) {
      r.budget().make(x->items.size() + y->items.size(), sizeof(Value));
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return make_array(std::move(items), x->flavour);
    }
  }
  if (op == "*" && repeatable(a) && b.is_integral()) return repeat(r, a, b.integer());
  if (op == "*" && repeatable(b) && a.is_integral()) return repeat(r, b, a.integer());
  if (op == "%" && a.is_string()) return percent_format(r, a, b);
  unsupported(op, a, b);
}

Value attribute(Renderer& r, const Value& object, const std::string& name) {
  require_defined(object);
  if (Value v = python_attribute(object, name); !v.is_undefined()) return v;
  if (object.dict()) {
    if (const Value* v = object.dict()->find(name)) return *v;
  }
  r.budget().step();
  return Value::undefined(absent(object, name));
}

Value item(Renderer& r, const Value& object, const Value& key) {
  require_defined(object);
  if (Value v = python_item(r, object, key); !v.is_undefined()) return v;
  if (!key.is_string())
    return Value::undefined("'" + object.type_name() + " object' has no such element");
  if (Value v = python_attribute(object, key.text()); !v.is_undefined()) return v;
  return Value::undefined(absent(object, key.text()));
}

Value attribute_path(Renderer& r, const Value& object, const Value& path) {
  if (!path.is_string()) return item(r, object, path);
  Value v = object;
  for (const std::string& part : split(path.text(), ".", -1, false)) {
    const bool number =
        !part.empty() && part.size() < 18 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    v = item(r, v, number ? Value(int64_t(std::stoll(part))) : Value(part));
  }
  return v;
}

Value slice_of(Renderer& r, const Value& object, const Value* bounds[3]) {
  require_defined(object);
  std::optional<int64_t> at[3];
  for (int i = 0; i < 3; ++i) {
    if (!bounds[i] || bounds[i]->is_none()) continue;
    if (!bounds[i]->is_integral()) fail("slice indices must be integers or None");
    at[i] = bounds[i]->integer();
  }
  const int64_t step = at[2].value_or(1);
  const Array* a = object.array();
  if (!object.is_string() &&
      (!a || a->flavour == Flavour::kView || a->flavour == Flavour::kGenerator)) {
    fail("'" + object.type_name() + "' object cannot be sliced");
  }
  if (step == 0) fail("slice step cannot be zero");
  if (object.is_string()) {
    r.budget().make(object.text().size());
    r.budget().step(1 + object.text().size() / 16);
    return Value(slice(object.text(), at[0], at[1], step), object.is_markup());
  }
  r.budget().make(a->items.size(), sizeof(Value));
  std::vector<Value> items;
  for (const size_t i : slice_indices(a->items.size(), at[0], at[1], step))
    items.push_back(a->items[i]);
  r.budget().step(1 + items.size());
  return make_array(std::move(items),
                    a->flavour == Flavour::kTuple ? Flavour::kTuple : Flavour::kList);
}

}  // namespace tutti::text::jinja
