#include "text/jinja_collections.h"

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

// What an element is compared by: itself or an attribute, texts in lower case unless told
// otherwise.
Value sort_key(Renderer& r, const Value& v, const Value* path, bool case_sensitive) {
  Value key = path && !path->is_none() ? attribute_path(r, v, *path) : v;
  if (case_sensitive || !key.is_string()) return key;
  r.budget().make(key.text().size());
  return Value(to_lower(key.text()));
}

// "a,b" sorts by a, then by b.
Value sort_keys(Renderer& r, const Value& v, const Value* path, bool case_sensitive) {
  if (!path || !path->is_string() || path->text().find(',') == std::string::npos) {
    return sort_key(r, v, path, case_sensitive);
  }
  std::vector<Value> keys;
  for (const std::string& part : split(path->text(), ",", -1, false)) {
    const Value one(part);
    keys.push_back(sort_key(r, v, &one, case_sensitive));
  }
  return make_tuple(std::move(keys));
}

std::vector<Value> sorted(Renderer& r, const std::vector<Value>& items, const Value* path,
                          bool case_sensitive, bool descending) {
  std::vector<Value> keys, out;
  for (const Value& item : items) keys.push_back(sort_keys(r, item, path, case_sensitive));
  for (const size_t i : sorted_order(keys, descending, r.budget())) out.push_back(items[i]);
  return out;
}

// The items of a filter that works when it is read: make(r, input, arguments) then.
using Make = std::vector<Value> (*)(Renderer&, const Value&, const Args&);
Value deferred(Renderer& r, const Value& v, const Args& args, Make make) {
  int depth = v.depth();
  for (const Value& x : args.positional) depth = std::max(depth, x.depth());
  for (const auto& [_, x] : args.named) depth = std::max(depth, x.depth());
  return make_generator(depth, [&r, v, args, make] { return make(r, v, args); });
}

// The test of select and its kin: a named one with arguments, or truth.
bool passes(Renderer& r, const Value& v, const Args& args, size_t from) {
  if (args.positional.size() <= from) return v.truthy();
  Args rest{{args.positional.begin() + long(from) + 1, args.positional.end()}, args.named};
  return r.call_predicate(to_text(args.positional[from], r.budget()), v, rest);
}

template <bool by_attribute, bool wanted>
Value filtered(Renderer& r, const Value& v, const Args& args) {
  return deferred(r, v, args, [](Renderer& r, const Value& v, const Args& args) {
    std::vector<Value> out;
    if (!v.truthy()) return out;
    if (by_attribute && args.positional.empty()) fail("missing parameter for attribute name");
    for (Value& item : iterate(v, r.budget())) {
      const Value subject = by_attribute ? attribute_path(r, item, args.positional[0]) : item;
      if (passes(r, subject, args, by_attribute ? 1 : 0) == wanted) out.push_back(std::move(item));
    }
    return out;
  });
}

Value extreme(Renderer& r, const Value& v, const Args& args, int wanted) {
  const Bound b("min/max", args, {"case_sensitive", "attribute"});
  const std::vector<Value> all = iterate(v, r.budget());
  if (all.empty()) return Value::undefined("no aggregated item, sequence was empty");
  size_t best = 0;
  Value best_key = sort_key(r, all[0], b[1], b.truthy(0, false));
  for (size_t i = 1; i < all.size(); ++i) {
    Value key = sort_key(r, all[i], b[1], b.truthy(0, false));
    if (order(key, best_key, r.budget()) * wanted > 0) {
      best = i;
      best_key = std::move(key);
    }
  }
  return all[best];
}

}  // namespace

namespace {
std::vector<Value> batch_items(Renderer& r, const Value& v, const Args& args) {
  const Bound b("batch", args, {"linecount", "fill_with"}, 1);
  const int64_t size = b.integer(0, 1);
  std::vector<Value> out, row;
  for (Value& item : iterate(v, r.budget())) {
    if (int64_t(row.size()) == size) out.push_back(make_array(std::exchange(row, {})));
    row.push_back(std::move(item));
  }
  if (!row.empty()) {
    if (b[1] && !b[1]->is_none() && int64_t(row.size()) < size) {
      r.budget().make(uint64_t(size), sizeof(Value));
      row.resize(size_t(size), *b[1]);
    }
    out.push_back(make_array(std::move(row)));
  }
  return out;
}
}  // namespace

Value batch(Renderer& r, const Value& v, const Args& args) {
  return deferred(r, v, args, batch_items);
}

namespace {
std::vector<Value> slices_items(Renderer& r, const Value& v, const Args& args) {
  const Bound b("slice", args, {"slices", "fill_with"}, 1);
  const int64_t n = b.integer(0, 1);
  if (n <= 0) fail("slice needs at least one slice");
  r.budget().make(uint64_t(n), sizeof(Value) + sizeof(Array));
  const std::vector<Value> all = iterate(v, r.budget());
  const size_t each = all.size() / size_t(n), extra = all.size() % size_t(n);
  std::vector<Value> out;
  size_t at = 0;
  for (size_t i = 0; i < size_t(n); ++i) {
    const size_t count = each + (i < extra);
    std::vector<Value> part(all.begin() + long(at), all.begin() + long(at + count));
    if (b[1] && !b[1]->is_none() && i >= extra) part.push_back(*b[1]);
    out.push_back(make_array(std::move(part)));
    at += count;
  }
  return out;
}
}  // namespace

Value slices(Renderer& r, const Value& v, const Args& args) {
  return deferred(r, v, args, slices_items);
}

Value dict_sort(Renderer& r, const Value& v, const Args& args) {
  const Bound b("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = b.text(1, "key");
  if (by != "key" && by != "value") fail("you can only sort by either 'key' or 'value'");
  require_defined(v);
  if (!v.dict()) fail("dictsort takes a mapping, not " + v.type_name());
  r.budget().make(v.dict()->entries.size(), 160);
  std::vector<Value> pairs;
  for (const auto& [key, value] : v.dict()->entries) pairs.push_back(make_tuple({key, value}));
  const Value position(by == "key" ? 0 : 1);
  return make_array(sorted(r, pairs, &position, b.truthy(0, false), b.truthy(2, false)));
}

Value first(Renderer& r, const Value& v, const Args& args) {
  const Bound b("first", args, {});
  if (v.is_string()) {
    return v.text().empty() ? Value::undefined("no first item, sequence was empty")
                            : item(r, v, Value(0));
  }
  std::vector<Value> all = iterate(v, r.budget());
  return all.empty() ? Value::undefined("no first item, sequence was empty") : all[0];
}

Value last(Renderer& r, const Value& v, const Args& args) {
  const Bound b("last", args, {});
  if (v.array() && v.array()->flavour == Flavour::kGenerator)
    fail("'generator' object is not reversible");
  std::vector<Value> all = iterate(v, r.budget());
  return all.empty() ? Value::undefined("no last item, sequence was empty") : all.back();
}

Value group_by(Renderer& r, const Value& v, const Args& args) {
  const Bound b("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  const bool case_sensitive = b.truthy(2, false);
  std::vector<Value> all;
  const auto key_of = [&](const Value& x) {
    Value key = attribute_path(r, x, *b[0]);
    return key.is_undefined() && b[1] && !b[1]->is_none() ? *b[1] : key;
  };
  for (Value& x : iterate(v, r.budget())) {
    const Value key = key_of(x);
    all.push_back(make_tuple({key, std::move(x)}));
  }
  const Value zero(0);
  std::vector<Value> groups, members;
  Value key, shown;
  for (const Value& pair : sorted(r, all, &zero, case_sensitive, false)) {
    const Value next = sort_key(r, pair, &zero, case_sensitive);
    if (!members.empty() && !equal(key, next, r.budget())) {
      groups.push_back(make_tuple({shown, make_array(std::exchange(members, {}))}));
    }
    if (members.empty()) shown = pair.array()->items[0];
    key = next;
    members.push_back(pair.array()->items[1]);
  }
  if (!members.empty()) groups.push_back(make_tuple({shown, make_array(std::move(members))}));
  return make_array(std::move(groups));
}

namespace {
std::vector<Value> items_items(Renderer& r, const Value& v, const Args& args) {
  const Bound b("items", args, {});
  if (v.is_undefined()) return {};
  if (!v.dict()) fail("can only get item pairs from a mapping");
  return iterate(r.call(method(v, "items"), {}), r.budget());
}
}  // namespace

Value items(Renderer& r, const Value& v, const Args& args) {
  return deferred(r, v, args, items_items);
}

Value join(Renderer& r, const Value& v, const Args& args) {
  const Bound b("join", args, {"d", "attribute"});
  const std::string separator = b[0] ? to_text(*b[0], r.budget()) : "";
  std::string out;
  bool first_one = true;
  for (const Value& x : iterate(v, r.budget())) {
    const std::string text =
        to_text(b[1] && !b[1]->is_none() ? attribute_path(r, x, *b[1]) : x, r.budget());
    r.budget().make(separator.size() + text.size());
    if (!first_one) out += separator;
    first_one = false;
    out += text;
  }
  return r.text(std::move(out));
}

Value list(Renderer& r, const Value& v, const Args& args) {
  const Bound b("list", args, {});
  return make_array(iterate(v, r.budget()));
}

namespace {
std::vector<Value> map_items(Renderer& r, const Value& v, const Args& args) {
  std::vector<Value> out;
  if (!v.truthy()) return out;
  const bool by_attribute = args.positional.empty() && !args.named.empty();
  if (args.positional.empty() && args.named.empty()) fail("map requires a filter argument");
  if (by_attribute) {
    const Bound b("map", args, {"attribute", "default"}, 1);
    for (const Value& x : iterate(v, r.budget())) {
      Value found = attribute_path(r, x, *b[0]);
      out.push_back(found.is_undefined() && b[1] && !b[1]->is_none() ? *b[1] : std::move(found));
    }
    return out;
  }
  const std::string name = to_text(args.positional[0], r.budget());
  const Args rest{{args.positional.begin() + 1, args.positional.end()}, args.named};
  for (const Value& x : iterate(v, r.budget())) out.push_back(r.call_filter(name, x, rest));
  return out;
}
}  // namespace

Value map(Renderer& r, const Value& v, const Args& args) { return deferred(r, v, args, map_items); }

Value max(Renderer& r, const Value& v, const Args& args) { return extreme(r, v, args, 1); }
Value min(Renderer& r, const Value& v, const Args& args) { return extreme(r, v, args, -1); }

Value reject(Renderer& r, const Value& v, const Args& args) {
  return filtered<false, false>(r, v, args);
}
Value select(Renderer& r, const Value& v, const Args& args) {
  return filtered<false, true>(r, v, args);
}
Value reject_attribute(Renderer& r, const Value& v, const Args& args) {
  return filtered<true, false>(r, v, args);
}
Value select_attribute(Renderer& r, const Value& v, const Args& args) {
  return filtered<true, true>(r, v, args);
}

Value reverse(Renderer& r, const Value& v, const Args& args) {
  const Bound b("reverse", args, {});
  if (v.is_string()) {
    r.budget().make(v.text().size());
    return Value(slice(v.text(), {}, {}, -1), v.is_markup());
  }
  std::vector<Value> all = iterate(v, r.budget());
  std::reverse(all.begin(), all.end());
  return make_array(std::move(all), Flavour::kGenerator, "<list_reverseiterator object>");
}

Value sort(Renderer& r, const Value& v, const Args& args) {
  const Bound b("sort", args, {"reverse", "case_sensitive", "attribute"});
  return make_array(
      sorted(r, iterate(v, r.budget()), b[2], b.truthy(1, false), b.truthy(0, false)));
}

Value sum(Renderer& r, const Value& v, const Args& args) {
  const Bound b("sum", args, {"attribute", "start"});
  Value total = b[1] ? *b[1] : Value(0);
  for (const Value& x : iterate(v, r.budget())) {
    total = binary(r, "+", total, b[0] && !b[0]->is_none() ? attribute_path(r, x, *b[0]) : x);
  }
  return total;
}

namespace {
std::vector<Value> unique_items(Renderer& r, const Value& v, const Args& args) {
  const Bound b("unique", args, {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  for (Value& x : iterate(v, r.budget())) {
    const Value key = sort_key(r, x, b[1], b.truthy(0, false));
    require_hashable(key);
    if (seen.find(key, r.budget())) continue;
    seen.set(key, Value(true), r.budget());
    out.push_back(std::move(x));
  }
  return out;
}
}  // namespace

Value unique(Renderer& r, const Value& v, const Args& args) {
  return deferred(r, v, args, unique_items);
}

}  // namespace tutti::text::jinja
