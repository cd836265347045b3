#include "text/jinja_print.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

constexpr int kMaxLevel = 2 * kMaxDepth;  // a namespace may hold itself

// A text that grows within the budget.
class Writer {
 public:
  explicit Writer(Budget& budget) : budget_(budget) {}
  Writer& operator+=(std::string_view s) {
    budget_.step();
    if (text_.size() + s.size() > text_.capacity()) {
      budget_.make(2 * (text_.size() + s.size()));
      text_.reserve(2 * (text_.size() + s.size()));
    }
    text_ += s;
    return *this;
  }
  std::string take() { return std::move(text_); }

 private:
  Budget& budget_;
  std::string text_;
};

std::string hexed(const char* format, uint32_t c) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, format, c);
  return buffer;
}

std::string repr_quoted(std::string_view text) {
  const bool single =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_at(text, i);
    if (c == '\\' || c == char32_t(quote)) {
      out += '\\';
      out += char(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(start, i - start);
    } else {
      out += c < 0x100     ? hexed("\\x%02x", c)
             : c < 0x10000 ? hexed("\\u%04x", c)
                           : hexed("\\U%08x", c);
    }
  }
  return out + quote;
}

std::string json_quoted(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_at(text, i);
    static constexpr std::string_view kFrom = "\"\\\n\r\t\b\f", kTo = "\"\\nrtbf";
    if (const size_t simple = c < 0x80 ? kFrom.find(char(c)) : std::string_view::npos;
        simple != std::string_view::npos) {
      out += '\\';
      out += kTo[simple];
    } else if (c < 0x20) {
      out += hexed("\\u%04x", c);
    } else if (!ensure_ascii || c < 0x7f || c == 0x7f) {
      out += text.substr(start, i - start);
    } else if (c < 0x10000) {
      out += hexed("\\u%04x", c);
    } else {
      out += hexed("\\u%04x", 0xd800 + ((c - 0x10000) >> 10));
      out += hexed("\\u%04x", 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
  }
  return out + '"';
}

void write_repr(Writer& out, const Value& v, Budget& budget, int level);

void write_items(Writer& out, const std::vector<Value>& items, Budget& budget, int level) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) out += ", ";
    first = false;
    write_repr(out, item, budget, level + 1);
  }
}

void write_dict(Writer& out, const Dict& d, Budget& budget, int level) {
  out += "{";
  bool first = true;
  for (const auto& [key, value] : d.entries) {
    if (!first) out += ", ";
    first = false;
    write_repr(out, key, budget, level + 1);
    out += ": ";
    write_repr(out, value, budget, level + 1);
  }
  out += "}";
}

void write_array(Writer& out, const Array& a, Budget& budget, int level) {
  switch (a.flavour) {
    case Flavour::kList:
      out += "[";
      write_items(out, a.items, budget, level);
      out += "]";
      return;
    case Flavour::kTuple:
      out += "(";
      write_items(out, a.items, budget, level);
      out += a.items.size() == 1 ? ",)" : ")";
      return;
    case Flavour::kView:
      out += a.label + "([";
      write_items(out, a.items, budget, level);
      out += "])";
      return;
    default:
      out += a.label;
  }
}

void write_repr(Writer& out, const Value& v, Budget& budget, int level) {
  if (level > kMaxLevel) throw Error(ErrorKind::kLimit, "a value nests too deeply to be printed");
  if (v.is_undefined()) {
    out += "Undefined";
  } else if (v.is_none()) {
    out += "None";
  } else if (v.is_bool()) {
    out += v.truthy() ? "True" : "False";
  } else if (v.is_int()) {
    out += std::to_string(v.integer());
  } else if (v.is_float()) {
    out += float_text(v.real());
  } else if (v.is_string()) {
    budget.make(v.text().size());
    out += v.is_markup() ? "Markup(" + repr_quoted(v.text()) + ")" : repr_quoted(v.text());
  } else if (const Array* a = v.array()) {
    write_array(out, *a, budget, level);
  } else if (const Dict* d = v.dict()) {
    write_dict(out, *d, budget, level);
  } else if (const Namespace* n = v.names()) {
    out += "<Namespace ";
    write_dict(out, n->attributes, budget, level);
    out += ">";
  } else if (const auto l = v.loop()) {
    out += "<LoopContext " + std::to_string(l->index + 1) + "/" +
           std::to_string(l->items().size()) + ">";
  } else {
    out += "<function " + v.callable()->name + ">";
  }
}

void write_json(Writer& out, const Value& v, const JsonStyle& style, Budget& budget, int level);

void new_line(Writer& out, const JsonStyle& style, int level) {
  if (!style.multiline) return;
  out += "\n";
  for (int i = 0; i < level; ++i) out += style.indent;
}

std::string json_key(const Value& key) {
  if (key.is_string()) return key.text();
  if (key.is_none()) return "null";
  if (key.is_bool()) return key.truthy() ? "true" : "false";
  if (key.is_int()) return std::to_string(key.integer());
  if (key.is_float()) return float_text(key.real());
  fail("keys must be str, int, float, bool or None, not " + key.type_name());
}

void write_json_dict(Writer& out, const Dict& d, const JsonStyle& style, Budget& budget,
                     int level) {
  if (d.entries.empty()) {
    out += "{}";
    return;
  }
  std::vector<size_t> sequence(d.entries.size());
  std::iota(sequence.begin(), sequence.end(), size_t(0));
  if (style.sort_keys) {
    std::vector<Value> keys;
    for (const auto& entry : d.entries) keys.push_back(entry.first);
    sequence = sorted_order(keys, false, budget);
  }
  out += "{";
  bool first = true;
  for (const size_t i : sequence) {
    const auto* entry = &d.entries[i];
    if (!first) out += style.item_separator;
    first = false;
    new_line(out, style, level + 1);
    out += json_quoted(json_key(entry->first), style.ensure_ascii);
    out += style.key_separator;
    write_json(out, entry->second, style, budget, level + 1);
  }
  new_line(out, style, level);
  out += "}";
}

std::string json_float(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "Infinity" : "-Infinity";
  return float_text(v);
}

void write_json(Writer& out, const Value& v, const JsonStyle& style, Budget& budget, int level) {
  if (v.is_none()) {
    out += "null";
  } else if (v.is_bool()) {
    out += v.truthy() ? "true" : "false";
  } else if (v.is_int()) {
    out += std::to_string(v.integer());
  } else if (v.is_float()) {
    out += json_float(v.real());
  } else if (v.is_string()) {
    budget.make(v.text().size());
    out += json_quoted(v.text(), style.ensure_ascii);
  } else if (const Dict* d = v.dict()) {
    write_json_dict(out, *d, style, budget, level);
  } else if (const Array* a = v.array();
             a && (a->flavour == Flavour::kList || a->flavour == Flavour::kTuple)) {
    if (a->items.empty()) {
      out += "[]";
      return;
    }
    out += "[";
    for (size_t i = 0; i < a->items.size(); ++i) {
      if (i) out += style.item_separator;
      new_line(out, style, level + 1);
      write_json(out, a->items[i], style, budget, level + 1);
    }
    new_line(out, style, level);
    out += "]";
  } else {
    fail("object of type " + v.type_name() + " is not JSON serializable");
  }
}

}  // namespace

std::string float_text(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto [end, _] =
      std::to_chars(buffer, buffer + sizeof buffer, v, std::chars_format::scientific);
  const std::string_view scientific(buffer, size_t(end - buffer));  // [-]d[.ddd]e[+-]dd
  const size_t e = scientific.find('e');
  const bool negative = scientific[0] == '-';
  std::string digits;
  for (const char c : scientific.substr(0, e)) {
    if (c != '-' && c != '.') digits += c;
  }
  int exponent = 0;
  const std::string_view power = scientific.substr(e + 2);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  if (scientific[e + 1] == '-') exponent = -exponent;
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const std::string magnitude = std::to_string(std::abs(exponent));
    return out + (magnitude.size() < 2 ? "0" : "") + magnitude;
  }
  if (exponent < 0) return out + "0." + std::string(size_t(-exponent - 1), '0') + digits;
  const size_t whole = size_t(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string to_repr(const Value& v, Budget& budget) {
  Writer out(budget);
  write_repr(out, v, budget, 0);
  return out.take();
}

std::string to_text(const Value& v, Budget& budget) {
  if (v.is_string()) return v.text();
  if (v.is_undefined()) return "";
  return to_repr(v, budget);
}

std::string to_json(const Value& v, const JsonStyle& style, Budget& budget) {
  Writer out(budget);
  write_json(out, v, style, budget, 0);
  return out.take();
}

}  // namespace tutti::text::jinja
