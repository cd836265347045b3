#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_collections.h"
#include "text/jinja_print.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

// The input as text that keeps its markup (jinja2's soft_str).
Value soft(Renderer& r, const Value& v) {
  return v.is_string() ? v : r.text(to_text(v, r.budget()));
}

template <std::string (*change)(std::string_view)>
Value changed(Renderer& r, const Value& v, const Args& args) {
  const Bound b("filter", args, {});
  const Value s = soft(r, v);
  r.budget().step(1 + s.text().size() / 4);
  return r.text(change(s.text()), s.is_markup());
}

// jinja2's own title: words begin after white space, '-', and opening brackets.
std::string titled(std::string_view text) {
  std::string out, word;
  const auto flush = [&] {
    if (word.empty()) return;
    const std::string_view first = characters(word)[0];
    out += to_upper(first) + to_lower(std::string_view(word).substr(first.size()));
    word.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_at(text, i);
    const bool border = is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (border) flush();
    (border ? out : word) += text.substr(start, i - start);
  }
  flush();
  return out;
}

Value trim(Renderer& r, const Value& v, const Args& args) {
  const Bound b("trim", args, {"chars"});
  const Value s = soft(r, v);
  Args rest;
  if (b[0]) rest.positional.push_back(*b[0]);
  return r.call(method(s, "strip"), std::move(rest));
}

Value replaced(Renderer& r, const Value& v, const Args& args) {
  const Bound b("replace", args, {"old", "new", "count"}, 2);
  const auto text_of = [&](const Value& x) { return to_text(x, r.budget()); };
  const int64_t count = b[2] && !b[2]->is_none() ? b.integer(2, -1) : -1;
  return r.text(replace(text_of(v), text_of(*b[0]), text_of(*b[1]), count, r.budget()));
}

Value default_value(Renderer&, const Value& v, const Args& args) {
  const Bound b("default", args, {"default_value", "boolean"});
  if (v.is_undefined() || (b.truthy(1, false) && !v.truthy())) return b[0] ? *b[0] : Value("");
  return v;
}

Value length_filter(Renderer&, const Value& v, const Args& args) {
  const Bound b("length", args, {});
  return Value(length(v));
}

Value string_filter(Renderer& r, const Value& v, const Args& args) {
  const Bound b("string", args, {});
  return soft(r, v);
}

Value safe(Renderer& r, const Value& v, const Args& args) {
  const Bound b("safe", args, {});
  return r.text(to_text(v, r.budget()), true);
}

Value force_escape(Renderer& r, const Value& v, const Args& args) {
  const Bound b("escape", args, {});
  const std::string s = to_text(v, r.budget());
  r.budget().make(s.size(), 5);
  return Value(escape_html(s), true);
}
Value escape(Renderer& r, const Value& v, const Args& args) {
  return v.is_markup() ? v : force_escape(r, v, args);
}

Value to_json_filter(Renderer& r, const Value& v, const Args& args) {
  const Bound b("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = b.truthy(0, false);
  style.sort_keys = b.truthy(3, false);
  if (const Value* indent = b[1]; indent && !indent->is_none()) {
    style.multiline = true;
    style.item_separator = ",";
    if (indent->is_string()) {
      style.indent = indent->text();
    } else {
      const int64_t n = std::max<int64_t>(b.integer(1, 0), 0);
      r.budget().make(uint64_t(n));
      style.indent = std::string(size_t(n), ' ');
    }
  }
  if (b[2] && !b[2]->is_none()) {
    const std::vector<Value> pair = iterate(*b[2], r.budget());
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      fail("tojson: separators are two texts");
    style.item_separator = pair[0].text();
    style.key_separator = pair[1].text();
  }
  return Value(to_json(v, style, r.budget()));
}

// ---- numbers

// int(text, base) of Python; false when it is no number.
bool parse_integer(std::string_view text, int64_t base, int64_t& out) {
  text = strip(text, Side::kBoth);
  std::string digits;
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  const auto prefix = [&](const char* lower, const char* upper, int64_t b) {
    if ((base == b || base == 0) && (text.starts_with(lower) || text.starts_with(upper))) {
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
      base = b;
    }
  };
  prefix("0x", "0X", 16);
  prefix("0o", "0O", 8);
  prefix("0b", "0B", 2);
  if (base == 0) base = 10;
  if (base < 2 || base > 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i + 1] != '_') continue;
    digits += text[i];
  }
  if (digits.empty() || digits[0] == '-') return false;
  digits = (negative ? "-" : "") + digits;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), out, int(base));
  if (error == std::errc::result_out_of_range)
    throw Error(ErrorKind::kLimit, "an integer beyond 64 bits");
  return error == std::errc() && end == digits.data() + digits.size();
}

bool parse_real(std::string_view text, double& out) {
  text = strip(text, Side::kBoth);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto decimal = [&](size_t k) {
      return k < text.size() && text[k] >= '0' && text[k] <= '9';
    };
    if (text[i] == '_' && i > 0 && decimal(i - 1) && decimal(i + 1)) continue;
    digits += text[i];
  }
  if (digits.empty() || digits[0] == '-') return false;
  if (const std::string lower = to_lower(digits); lower[0] == 'n' && lower != "nan") return false;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  if (end != digits.data() + digits.size() || digits.find('(') != std::string::npos) return false;
  if (error == std::errc::result_out_of_range)
    out = digits.find("e-") == std::string::npos && digits.find("E-") == std::string::npos
              ? HUGE_VAL
              : 0;
  if (negative) out = -out;
  return true;
}

bool truncated(double v, int64_t& out) {
  if (std::isnan(v) || std::isinf(v)) return false;
  if (std::abs(v) >= 0x1p63) throw Error(ErrorKind::kLimit, "an integer beyond 64 bits");
  out = int64_t(v);
  return true;
}

Value int_filter(Renderer&, const Value& v, const Args& args) {
  const Bound b("int", args, {"default", "base"});
  const Value otherwise = b[0] ? *b[0] : Value(0);
  require_defined(v);
  int64_t out = 0;
  double real = 0;
  if (v.is_integral()) return Value(v.integer());
  if (v.is_float()) {
    if (std::isinf(v.real())) return otherwise;
    return truncated(v.real(), out) ? Value(out) : otherwise;
  }
  if (!v.is_string()) return otherwise;
  if (parse_integer(v.text(), b.integer(1, 10), out)) return Value(out);
  if (parse_real(v.text(), real) && truncated(real, out)) return Value(out);
  return otherwise;
}

Value float_filter(Renderer&, const Value& v, const Args& args) {
  const Bound b("float", args, {"default"});
  require_defined(v);
  double out = 0;
  if (v.is_number()) return Value(v.real());
  if (v.is_string() && parse_real(v.text(), out)) return Value(out);
  return b[0] ? *b[0] : Value(0.0);
}

Value absolute(Renderer& r, const Value& v, const Args& args) {
  const Bound b("abs", args, {});
  require_defined(v);
  if (v.is_float()) return Value(std::abs(v.real()));
  if (!v.is_integral()) fail("bad operand type for abs(): '" + v.type_name() + "'");
  return v.integer() < 0 ? binary(r, "-", Value(0), v) : Value(v.integer());
}

// round(v, places) of Python: correctly rounded, ties to even.
double round_half_even(double v, int64_t places) {
  if (!std::isfinite(v) || places > 300) return v;
  if (places < -308) return std::copysign(0.0, v);
  if (places < 0) {
    const double scale = std::pow(10.0, double(-places));
    return std::nearbyint(v / scale) * scale;
  }
  char buffer[700];
  std::snprintf(buffer, sizeof buffer, "%.*f", int(places), v);
  return std::strtod(buffer, nullptr);
}

Value round_filter(Renderer& r, const Value& v, const Args& args) {
  const Bound b("round", args, {"precision", "method"});
  const std::string method = b.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor")
    fail("method must be common, ceil or floor");
  require_defined(v);
  if (!v.is_number()) fail("type " + v.type_name() + " doesn't define __round__ method");
  const int64_t places = b.integer(0, 0);
  if (method == "common") {
    if (!v.is_integral()) return Value(round_half_even(v.real(), places));
    if (places >= 0) return Value(v.integer());
    return Value(int64_t(round_half_even(v.real(), places)));
  }
  const Value scale = binary(r, "**", Value(10), Value(places));
  const double scaled = binary(r, "*", v, scale).real();
  if (!std::isfinite(scaled)) fail("cannot convert float infinity or NaN to integer");
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale.real());
}

// ---- lines and words

Value indent(Renderer& r, const Value& v, const Args& args) {
  const Bound b("indent", args, {"width", "first", "blank"});
  require_defined(v);
  if (!v.is_string()) fail("indent takes a text, not " + v.type_name());
  std::string by;
  if (b[0] && b[0]->is_string()) {
    by = b[0]->text();
  } else {
    const int64_t n = std::max<int64_t>(b.integer(0, 4), 0);
    r.budget().make(uint64_t(n));
    by = std::string(size_t(n), ' ');
  }
  const std::vector<std::string> lines = split_lines(v.text() + "\n", false);
  r.budget().make(v.text().size() + 1);
  r.budget().make(lines.size(), by.size() + 1);
  std::string out = b.truthy(1, false) ? by : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (b.truthy(2, false) || !lines[i].empty())) out += by;
    out += lines[i];
  }
  return r.text(std::move(out), v.is_markup());
}

Value word_count(Renderer& r, const Value& v, const Args& args) {
  const Bound b("wordcount", args, {});
  const Value s = soft(r, v);
  r.budget().step(1 + s.text().size() / 4);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < s.text().size();) {
    const char32_t c = decode_at(s.text(), i);
    const bool word = is_letter(c) || is_digit(c) || c == '_';
    words += word && !inside;
    inside = word;
  }
  return Value(words);
}

Value centre(Renderer& r, const Value& v, const Args& args) {
  const Bound b("center", args, {"width"});
  return r.call(method(soft(r, v), "center"), {{Value(b.integer(0, 80))}, {}});
}

Value truncate(Renderer& r, const Value& v, const Args& args) {
  const Bound b("truncate", args, {"length", "killwords", "end", "leeway"});
  const Value s = soft(r, v);
  const std::string end = b.text(2, "...");
  const int64_t wanted = b.integer(0, 255), leeway = b[3] && !b[3]->is_none() ? b.integer(3, 5) : 5;
  const int64_t tail = int64_t(count_characters(end));
  if (wanted < tail)
    fail("expected length >= " + std::to_string(tail) + ", got " + std::to_string(wanted));
  if (leeway < 0) fail("expected leeway >= 0");
  if (length(s) <= wanted + std::min<int64_t>(leeway, INT32_MAX)) return s;
  std::string cut = slice(s.text(), 0, wanted - tail, 1);
  if (!b.truthy(1, false)) {
    if (const size_t space = cut.rfind(' '); space != std::string::npos) cut.resize(space);
  }
  return r.text(cut + end, s.is_markup());
}

Value format_filter(Renderer& r, const Value& v, const Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    fail("format takes positional or keyword arguments, not both");
  if (args.named.empty()) return percent_format(r, soft(r, v), make_tuple(args.positional));
  Dict named;
  for (const auto& [name, value] : args.named) named.set(Value(name), value, r.budget());
  return percent_format(r, soft(r, v), make_dict(std::move(named)));
}

Value url_encode(Renderer& r, const Value& v, const Args& args) {
  const Bound b("urlencode", args, {});
  const std::string s = to_text(v, r.budget());
  if (v.dict() || v.array()) fail("urlencode takes a text");
  r.budget().make(s.size(), 3);
  std::string out;
  for (const char c : s) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~/").find(c) != std::string_view::npos;
    char escaped[4];
    std::snprintf(escaped, sizeof escaped, "%%%02X", uint8_t(c));
    out += plain ? std::string(1, c) : escaped;
  }
  return Value(std::move(out));
}

Value attr(Renderer& r, const Value& v, const Args& args) {
  const Bound b("attr", args, {"name"}, 1);
  require_defined(v);
  const std::string name = b.text(0, "");
  if (v.dict()) return method(v, name);  // attributes only, not items
  return attribute(r, v, name);
}

struct Named {
  std::string_view name;
  Filter call;
};

constexpr Named kFilters[] = {
    {"abs", absolute},
    {"attr", attr},
    {"batch", batch},
    {"capitalize", changed<capitalise>},
    {"center", centre},
    {"count", length_filter},
    {"d", default_value},
    {"default", default_value},
    {"dictsort", dict_sort},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", float_filter},
    {"forceescape", force_escape},
    {"format", format_filter},
    {"groupby", group_by},
    {"indent", indent},
    {"int", int_filter},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", list},
    {"lower", changed<to_lower>},
    {"map", map},
    {"max", max},
    {"min", min},
    {"reject", reject},
    {"rejectattr", reject_attribute},
    {"replace", replaced},
    {"reverse", reverse},
    {"round", round_filter},
    {"safe", safe},
    {"select", select},
    {"selectattr", select_attribute},
    {"slice", slices},
    {"sort", sort},
    {"string", string_filter},
    {"sum", sum},
    {"title", changed<titled>},
    {"tojson", to_json_filter},
    {"trim", trim},
    {"truncate", truncate},
    {"unique", unique},
    {"upper", changed<to_upper>},
    {"urlencode", url_encode},
    {"wordcount", word_count},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* it = std::lower_bound(std::begin(kFilters), std::end(kFilters), name,
                                    [](const Named& f, std::string_view n) { return f.name < n; });
  return it != std::end(kFilters) && it->name == name ? it->call : nullptr;
}

}  // namespace tutti::text::jinja
