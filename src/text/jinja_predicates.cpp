#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

struct Named {
  std::string_view name;
  Predicate test;
};

using Test = bool (*)(const Value&);

template <Test test>
bool plain(Renderer&, const Value& v, const Args& args) {
  const Bound b("test", args, {});
  return test(v);
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_boolean(const Value& v) { return v.is_bool(); }
bool is_true(const Value& v) { return v.is_bool() && v.truthy(); }
bool is_false(const Value& v) { return v.is_bool() && !v.truthy(); }
bool is_integer(const Value& v) { return v.is_int(); }
bool is_real(const Value& v) { return v.is_float(); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_text(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.dict() != nullptr; }
bool is_sequence(const Value& v) {
  if (const Array* a = v.array())
    return a->flavour != Flavour::kView && a->flavour != Flavour::kGenerator;
  return v.is_undefined() || v.is_string() || v.dict();
}
bool is_callable(const Value& v) { return v.callable() || v.loop() || v.is_undefined(); }
bool is_escaped(const Value& v) { return v.is_markup(); }

template <bool upper>
bool is_cased(Renderer& r, const Value& v, const Args& args) {
  const Bound b("test", args, {});
  const Value text(to_text(v, r.budget()));
  return r.call(method(text, upper ? "isupper" : "islower"), {}).truthy();
}

bool divisible(Renderer& r, const Value& v, int64_t by, int64_t rest) {
  return equal(binary(r, "%", v, Value(by)), Value(rest), r.budget());
}
bool is_odd(Renderer& r, const Value& v, const Args&) { return divisible(r, v, 2, 1); }
bool is_even(Renderer& r, const Value& v, const Args&) { return divisible(r, v, 2, 0); }
bool is_divisible(Renderer& r, const Value& v, const Args& args) {
  const Bound b("divisibleby", args, {"num"}, 1);
  return equal(binary(r, "%", v, *b[0]), Value(0), r.budget());
}

bool is_same(Renderer& r, const Value& v, const Args& args) {
  const Bound b("sameas", args, {"other"}, 1);
  const Value& o = *b[0];
  if (v.store().index() != o.store().index()) return false;
  if (v.array() || v.dict()) return v.array() == o.array() && v.dict() == o.dict();
  return equal(v, o, r.budget());
}

bool is_in(Renderer& r, const Value& v, const Args& args) {
  const Bound b("in", args, {"seq"}, 1);
  return contains(*b[0], v, r.budget());
}
bool is_equal(Renderer& r, const Value& v, const Args& args) {
  const Bound b("eq", args, {"other"}, 1);
  return equal(v, *b[0], r.budget());
}
bool is_unequal(Renderer& r, const Value& v, const Args& args) { return !is_equal(r, v, args); }

enum class Order { kLess, kLessEqual, kGreater, kGreaterEqual };
template <Order wanted>
bool is_ordered(Renderer& r, const Value& v, const Args& args) {
  const Bound b("comparison", args, {"other"}, 1);
  const int sign = order(v, *b[0], r.budget());
  switch (wanted) {
    case Order::kLess:
      return sign < 0;
    case Order::kLessEqual:
      return sign <= 0;
    case Order::kGreater:
      return sign > 0;
    case Order::kGreaterEqual:
      return sign >= 0;
  }
  return false;
}

bool is_filter_name(Renderer&, const Value& v, const Args&) {
  return v.is_string() && find_filter(v.text());
}
bool is_test_name(Renderer&, const Value& v, const Args&) {
  return v.is_string() && find_predicate(v.text());
}

constexpr Named kPredicates[] = {
    {"!=", is_unequal},
    {"<", is_ordered<Order::kLess>},
    {"<=", is_ordered<Order::kLessEqual>},
    {"==", is_equal},
    {">", is_ordered<Order::kGreater>},
    {">=", is_ordered<Order::kGreaterEqual>},
    {"boolean", plain<is_boolean>},
    {"callable", plain<is_callable>},
    {"defined", plain<is_defined>},
    {"divisibleby", is_divisible},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"escaped", plain<is_escaped>},
    {"even", is_even},
    {"false", plain<is_false>},
    {"filter", is_filter_name},
    {"float", plain<is_real>},
    {"ge", is_ordered<Order::kGreaterEqual>},
    {"greaterthan", is_ordered<Order::kGreater>},
    {"gt", is_ordered<Order::kGreater>},
    {"in", is_in},
    {"integer", plain<is_integer>},
    {"iterable", plain<is_iterable>},
    {"le", is_ordered<Order::kLessEqual>},
    {"lessthan", is_ordered<Order::kLess>},
    {"lower", is_cased<false>},
    {"lt", is_ordered<Order::kLess>},
    {"mapping", plain<is_mapping>},
    {"ne", is_unequal},
    {"none", plain<is_none>},
    {"number", plain<is_number>},
    {"odd", is_odd},
    {"sameas", is_same},
    {"sequence", plain<is_sequence>},
    {"string", plain<is_text>},
    {"test", is_test_name},
    {"true", plain<is_true>},
    {"undefined", plain<is_undefined>},
    {"upper", is_cased<true>},
};

}  // namespace

Predicate find_predicate(std::string_view name) {
  const auto* it = std::lower_bound(std::begin(kPredicates), std::end(kPredicates), name,
                                    [](const Named& p, std::string_view n) { return p.name < n; });
  return it != std::end(kPredicates) && it->name == name ? it->test : nullptr;
}

}  // namespace tutti::text::jinja
