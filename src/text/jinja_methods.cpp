#include <algorithm>
#include <cmath>
#include <optional>

#include "text/jinja_builtins.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

using Method = Value (*)(Renderer&, const Value& self, const Args&);
struct Named {
  std::string_view name;
  Method call;
};

// Text made from `self` stays markup when `self` is.
Value like(Renderer& r, const Value& self, std::string s) {
  return r.text(std::move(s), self.is_markup());
}

std::optional<std::string> optional_text(const Bound& b, size_t i) {
  if (!b[i] || b[i]->is_none()) return std::nullopt;
  return b.text(i, "");
}

template <Side side>
Value strip_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("strip", args, {"chars"});
  const auto chars = optional_text(b, 0);
  r.budget().search(self.text().size(), chars ? chars->size() : 8);
  return like(r, self, std::string(strip(self.text(), side, chars)));
}

template <bool from_right>
Value split_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("split", args, {"sep", "maxsplit"});
  const auto separator = optional_text(b, 0);
  if (separator && separator->empty()) fail("empty separator");
  r.budget().search(self.text().size(), separator ? separator->size() : 8);
  r.budget().make(self.text().size(), 96);
  std::vector<Value> items;
  for (std::string& part : split(self.text(), separator, b.integer(1, -1), from_right)) {
    items.emplace_back(std::move(part), self.is_markup());
  }
  return make_array(std::move(items));
}

Value split_lines_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("splitlines", args, {"keepends"});
  r.budget().make(self.text().size(), 96);
  std::vector<Value> items;
  for (std::string& line : split_lines(self.text(), b.truthy(0, false))) {
    items.emplace_back(std::move(line), self.is_markup());
  }
  return make_array(std::move(items));
}

template <bool at_end>
Value affix_method(Renderer&, const Value& self, const Args& args) {
  const Bound b("startswith", args, {"prefix", "start", "end"}, 1);
  std::optional<int64_t> start, end;
  if (b[1] && !b[1]->is_none()) start = b.integer(1, 0);
  if (b[2] && !b[2]->is_none()) end = b.integer(2, 0);
  const std::string text = start || end ? slice(self.text(), start, end, 1) : self.text();
  const auto test = [&](const Value& v) {
    require_defined(v);
    if (!v.is_string())
      fail("startswith/endswith take str or a tuple of str, not " + v.type_name());
    return at_end ? text.ends_with(v.text()) : text.starts_with(v.text());
  };
  if (const Array* a = b[0]->array(); a && a->flavour == Flavour::kTuple) {
    return Value(std::any_of(a->items.begin(), a->items.end(), test));
  }
  return Value(test(*b[0]));
}

Value replace_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("replace", args, {"old", "new", "count"}, 2);
  std::string to = b.text(1, "");
  if (self.is_markup() && !b[1]->is_markup()) to = escape_html(to);
  return like(r, self, replace(self.text(), b.text(0, ""), to, b.integer(2, -1), r.budget()));
}

Value join_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("join", args, {"iterable"}, 1);
  std::string out;
  bool first = true;
  for (const Value& v : iterate(*b[0], r.budget())) {
    if (!v.is_string()) {
      require_defined(v);
      fail("join() takes texts, not " + v.type_name());
    }
    r.budget().make(self.text().size() + v.text().size());
    if (!first) out += self.text();
    first = false;
    out += self.is_markup() && !v.is_markup() ? escape_html(v.text()) : v.text();
  }
  return like(r, self, std::move(out));
}

// The byte range of self[start:end], and the number of characters before it.
struct Window {
  size_t first, last;
  int64_t skipped;
};
Window window(const Value& self, const Bound& b) {
  const auto parts = characters(self.text());
  const auto bound = [&](size_t i, int64_t otherwise) {
    return !b[i] || b[i]->is_none() ? otherwise : b.integer(i, 0);
  };
  const int64_t n = int64_t(parts.size());
  const auto place = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? std::max(at, -n) + n : at, 0, n);
  };
  const int64_t start = bound(1, 0);
  const int64_t first = place(start), last = std::max(first, place(bound(2, n)));
  const auto byte = [&](int64_t i) {
    return i == n ? self.text().size() : size_t(parts[size_t(i)].data() - self.text().data());
  };
  if (start > n) return {1, 0, 0};
  return {byte(first), byte(last), first};
}

template <bool from_right, bool must>
Value find_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("find", args, {"sub", "start", "end"}, 1);
  const std::string needle = b.text(0, "");
  r.budget().search(self.text().size(), needle.size());
  const Window w = window(self, b);
  if (w.first <= w.last) {
    const std::string_view part = std::string_view(self.text()).substr(w.first, w.last - w.first);
    const size_t at = from_right ? part.rfind(needle) : part.find(needle);
    if (at != std::string_view::npos)
      return Value(w.skipped + int64_t(count_characters(part.substr(0, at))));
  }
  if (must) fail("substring not found");
  return Value(-1);
}

Value count_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("count", args, {"sub", "start", "end"}, 1);
  const std::string needle = b.text(0, "");
  r.budget().search(self.text().size(), needle.size());
  const Window w = window(self, b);
  if (w.first > w.last) return Value(0);
  const std::string_view part = std::string_view(self.text()).substr(w.first, w.last - w.first);
  if (needle.empty()) return Value(int64_t(count_characters(part)) + 1);
  int64_t n = 0;
  for (size_t at = part.find(needle); at != std::string_view::npos;
       at = part.find(needle, at + needle.size()))
    ++n;
  return Value(n);
}

template <std::string (*change)(std::string_view)>
Value change_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("method", args, {});
  r.budget().step(1 + self.text().size() / 4);
  return like(r, self, change(self.text()));
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (const std::string_view c : characters(text)) {
    size_t at = 0;
    out += is_cased_upper(decode_at(c, at)) ? to_lower(c) : to_upper(c);
  }
  return out;
}

// All characters pass, and there is at least one.
template <bool (*test)(char32_t)>
Value all_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("method", args, {});
  const std::string& text = self.text();
  r.budget().step(1 + text.size() / 4);
  for (size_t i = 0; i < text.size();) {
    if (!test(decode_at(text, i))) return Value(false);
  }
  return Value(!text.empty());
}

bool is_alphanumeric(char32_t c) { return is_letter(c) || is_digit(c); }

template <bool upper>
Value cased_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("method", args, {});
  r.budget().step(1 + self.text().size() / 4);
  bool any = false;
  for (size_t i = 0; i < self.text().size();) {
    const char32_t c = decode_at(self.text(), i);
    if (upper ? is_cased_lower(c) : is_cased_upper(c)) return Value(false);
    any = any || (upper ? is_cased_upper(c) : is_cased_lower(c));
  }
  return Value(any);
}

Value is_title_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("istitle", args, {});
  r.budget().step(1 + self.text().size() / 4);
  bool inside = false, any = false;
  for (size_t i = 0; i < self.text().size();) {
    const char32_t c = decode_at(self.text(), i);
    const bool upper = is_cased_upper(c), lower = is_cased_lower(c);
    if ((upper && inside) || (lower && !inside)) return Value(false);
    inside = upper || lower;
    any = any || inside;
  }
  return Value(any);
}

Value is_ascii_method(Renderer&, const Value& self, const Args& args) {
  const Bound b("isascii", args, {});
  return Value(is_ascii(self.text()));
}

template <int align>
Value pad_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("center", args, {"width", "fillchar"}, 1);
  const std::string fill = b.text(1, " ");
  if (count_characters(fill) != 1) fail("the fill character must be exactly one character long");
  const int64_t width = b.integer(0, 0), n = int64_t(count_characters(self.text()));
  if (width <= n) return self;
  r.budget().make(uint64_t(width), fill.size());
  const int64_t pad = width - n;
  const int64_t left = align < 0 ? 0 : align > 0 ? pad : pad / 2 + (pad & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < pad; ++i) out += fill;
  return like(r, self, std::move(out));
}

Value zero_fill_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("zfill", args, {"width"}, 1);
  const int64_t width = b.integer(0, 0), n = int64_t(count_characters(self.text()));
  if (width <= n) return self;
  r.budget().make(uint64_t(width) + self.text().size());
  const bool sign = self.text().starts_with('-') || self.text().starts_with('+');
  return like(
      r, self,
      self.text().substr(0, sign) + std::string(size_t(width - n), '0') + self.text().substr(sign));
}

template <bool from_right>
Value partition_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("partition", args, {"sep"}, 1);
  const std::string separator = b.text(0, ""), &text = self.text();
  if (separator.empty()) fail("empty separator");
  r.budget().search(text.size(), separator.size());
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  const bool m = self.is_markup();
  if (at == std::string::npos) {
    if (from_right) return make_tuple({Value("", m), Value("", m), self});
    return make_tuple({self, Value("", m), Value("", m)});
  }
  return make_tuple({Value(text.substr(0, at), m), Value(separator, m),
                     Value(text.substr(at + separator.size()), m)});
}

template <bool suffix>
Value remove_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("removeprefix", args, {"affix"}, 1);
  const std::string affix = b.text(0, ""), &text = self.text();
  if (suffix ? !text.ends_with(affix) : !text.starts_with(affix)) return self;
  return like(r, self,
              suffix ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size()));
}

Value expand_tabs_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("expandtabs", args, {"tabsize"});
  const int64_t size = b.integer(0, 8);
  if (size > 1000) fail("expandtabs: the tab size is too large");
  r.budget().make(self.text().size(), uint64_t(std::max<int64_t>(size, 1)));
  std::string out;
  int64_t column = 0;
  for (const std::string_view c : characters(self.text())) {
    if (c == "\t") {
      const int64_t n = size > 0 ? size - column % size : 0;
      out.append(size_t(n), ' ');
      column += n;
    } else {
      out += c;
      column = c == "\n" || c == "\r" ? 0 : column + 1;
    }
  }
  return like(r, self, std::move(out));
}

Value format_method(Renderer& r, const Value& self, const Args& args) {
  return brace_format(r, self, args);
}

constexpr Named kTextMethods[] = {
    {"capitalize", change_method<capitalise>},
    {"casefold", change_method<to_lower>},
    {"center", pad_method<0>},
    {"count", count_method},
    {"endswith", affix_method<true>},
    {"expandtabs", expand_tabs_method},
    {"find", find_method<false, false>},
    {"format", format_method},
    {"index", find_method<false, true>},
    {"isalnum", all_method<is_alphanumeric>},
    {"isalpha", all_method<is_letter>},
    {"isascii", is_ascii_method},
    {"isdecimal", all_method<is_digit>},
    {"isdigit", all_method<is_digit>},
    {"islower", cased_method<false>},
    {"isnumeric", all_method<is_digit>},
    {"isspace", all_method<is_space>},
    {"istitle", is_title_method},
    {"isupper", cased_method<true>},
    {"join", join_method},
    {"ljust", pad_method<-1>},
    {"lower", change_method<to_lower>},
    {"lstrip", strip_method<Side::kLeft>},
    {"partition", partition_method<false>},
    {"removeprefix", remove_method<false>},
    {"removesuffix", remove_method<true>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", pad_method<1>},
    {"rpartition", partition_method<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<Side::kRight>},
    {"split", split_method<false>},
    {"splitlines", split_lines_method},
    {"startswith", affix_method<false>},
    {"strip", strip_method<Side::kBoth>},
    {"swapcase", change_method<swap_case>},
    {"title", change_method<title_case>},
    {"upper", change_method<to_upper>},
    {"zfill", zero_fill_method},
};

Value get_method(Renderer& r, const Value& self, const Args& args) {
  if (!args.named.empty()) fail("get() takes no keyword arguments");
  const Bound b("get", args, {"key", "default"}, 1);
  const Value* v = self.dict()->find(*b[0], r.budget());
  return v ? *v : b[1] ? *b[1] : Value(None{});
}

template <int part>  // 0: keys, 1: values, 2: items
Value view_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("view", args, {});
  const auto& entries = self.dict()->entries;
  r.budget().step(entries.size());
  r.budget().make(entries.size(), part == 2 ? 160 : sizeof(Value));
  std::vector<Value> items;
  for (const auto& [key, value] : entries) {
    items.push_back(part == 0 ? key : part == 1 ? value : make_tuple({key, value}));
  }
  return make_array(std::move(items), Flavour::kView,
                    part == 0   ? "dict_keys"
                    : part == 1 ? "dict_values"
                                : "dict_items");
}

Value copy_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("copy", args, {});
  if (self.array()) r.budget().make(self.array()->items.size(), sizeof(Value));
  return self;  // values never change
}

constexpr Named kDictMethods[] = {
    {"copy", copy_method},    {"get", get_method},        {"items", view_method<2>},
    {"keys", view_method<0>}, {"values", view_method<1>},
};

Value count_items_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("count", args, {"value"}, 1);
  int64_t n = 0;
  for (const Value& v : self.array()->items) n += equal(v, *b[0], r.budget());
  return Value(n);
}

Value index_item_method(Renderer& r, const Value& self, const Args& args) {
  const Bound b("index", args, {"value", "start", "stop"}, 1);
  const auto& items = self.array()->items;
  const int64_t n = int64_t(items.size());
  const auto place = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? std::max(at, -n) + n : at, 0, n);
  };
  const int64_t last = place(b.integer(2, n));
  for (int64_t i = place(b.integer(1, 0)); i < last; ++i) {
    if (equal(items[size_t(i)], *b[0], r.budget())) return Value(i);
  }
  fail("the value is not in the " + self.type_name());
}

constexpr Named kListMethods[] = {
    {"copy", copy_method}, {"count", count_items_method}, {"index", index_item_method}};
constexpr Named kTupleMethods[] = {{"count", count_items_method}, {"index", index_item_method}};

Value is_integer_method(Renderer&, const Value& self, const Args& args) {
  const Bound b("is_integer", args, {});
  return Value(self.real() == std::floor(self.real()) && !std::isinf(self.real()));
}
constexpr Named kFloatMethods[] = {{"is_integer", is_integer_method}};

template <size_t n>
Value bound(const Named (&table)[n], const Value& self, const std::string& name) {
  for (const Named& m : table) {
    if (m.name != name) continue;
    return make_callable(name, self.depth(), [self, call = m.call](Renderer& r, const Args& args) {
      return call(r, self, args);
    });
  }
  return {};
}

}  // namespace

Value method(const Value& object, const std::string& name) {
  if (object.is_string()) return bound(kTextMethods, object, name);
  if (object.dict()) return bound(kDictMethods, object, name);
  if (object.is_float()) return bound(kFloatMethods, object, name);
  if (const Array* a = object.array()) {
    if (a->flavour == Flavour::kList) return bound(kListMethods, object, name);
    if (a->flavour == Flavour::kTuple || a->flavour == Flavour::kRange)
      return bound(kTupleMethods, object, name);
  }
  return {};
}

}  // namespace tutti::text::jinja
