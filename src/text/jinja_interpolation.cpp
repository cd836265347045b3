// "..." % values and "...".format(...).
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/jinja_runtime.h"
#include "text/jinja_text.h"

namespace tutti::text::jinja {

namespace {

constexpr int64_t kMaxWidth = 10'000;  // of one field

// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = 0, sign = '-', group = 0, type = 0;
  bool alternate = false, zero = false;
  int64_t width = 0, precision = -1;
};

int64_t number_at(std::string_view s, size_t& at) {
  int64_t n = 0;
  while (at < s.size() && s[at] >= '0' && s[at] <= '9') {
    n = n * 10 + (s[at++] - '0');
    if (n > kMaxWidth) throw Error(ErrorKind::kLimit, "a format field wider than 10000");
  }
  return n;
}

bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

Spec parse_spec(std::string_view s) {
  Spec spec;
  size_t at = 0;
  if (!s.empty()) {
    size_t next = 0;
    decode_at(s, next);
    if (next < s.size() && is_align(s[next])) {
      spec.fill = s.substr(0, next);
      spec.align = s[next];
      at = next + 1;
    } else if (is_align(s[0])) {
      spec.align = s[at++];
    }
  }
  const auto take = [&](std::string_view any) {
    return at < s.size() && any.find(s[at]) != any.npos ? s[at++] : '\0';
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#");
  spec.zero = take("0");
  spec.width = number_at(s, at);
  spec.group = take(",_");
  if (take(".")) spec.precision = number_at(s, at);
  spec.type = take("sdbcoxXeEfFgG%");
  if (at != s.size()) fail("invalid format specifier '" + std::string(s) + "'");
  if (spec.zero && !spec.align) {
    spec.fill = "0";
    spec.align = '=';
  }
  return spec;
}

std::string padded(const Spec& spec, const std::string& sign, const std::string& body, char usual) {
  const int64_t n = int64_t(count_characters(sign) + count_characters(body));
  const int64_t pad = std::max<int64_t>(spec.width - n, 0);
  const char align = spec.align ? spec.align : usual;
  const int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
  std::string before, after;
  for (int64_t i = 0; i < left; ++i) before += spec.fill;
  for (int64_t i = left; i < pad; ++i) after += spec.fill;
  return align == '=' ? sign + before + body : before + sign + body + after;
}

std::string grouped(std::string digits, char separator) {
  if (!separator) return digits;
  size_t end = 0;
  while (end < digits.size() && digits[end] >= '0' && digits[end] <= '9') ++end;
  for (size_t i = end; i > 3; i -= 3) digits.insert(i - 3, 1, separator);
  return digits;
}

std::string real_digits(double v, char type, int64_t precision, bool alternate) {
  const char upper[] = {'%',
                        alternate ? '#' : '.',
                        alternate ? '.' : '*',
                        alternate ? '*' : type,
                        alternate ? type : '\0',
                        '\0'};
  std::string out(size_t(400 + precision), '\0');
  const int n = std::snprintf(out.data(), out.size(), upper, int(precision), v);
  out.resize(size_t(n));
  return out;
}

std::string integer_digits(uint64_t v, int base, bool upper) {
  char buffer[70];
  const auto [end, _] = std::to_chars(buffer, buffer + sizeof buffer, v, base);
  std::string out(buffer, size_t(end - buffer));
  return upper ? to_upper(out) : out;
}

std::string sign_of(bool negative, char style) {
  return negative ? "-" : style == '+' ? "+" : style == ' ' ? " " : "";
}

std::string formatted_number(const Value& v, Spec spec) {
  const bool real_type =
      spec.type && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (v.is_float() || real_type) {
    double x = v.real();
    if (spec.type == '%') x *= 100;
    const bool negative = std::signbit(x);
    std::string body;
    if (!spec.type && spec.precision < 0) {
      body = float_text(std::abs(x));
    } else {
      const char type = spec.type == '%' ? 'f' : spec.type ? spec.type : 'g';
      body =
          real_digits(std::abs(x), type, spec.precision < 0 ? 6 : spec.precision, spec.alternate);
      if (!spec.type && body.find_first_of(".e") == std::string::npos) body += ".0";
    }
    if (spec.type == '%') body += '%';
    return padded(spec, sign_of(negative, spec.sign), grouped(body, spec.group), '>');
  }
  if (spec.precision >= 0) fail("precision not allowed in integer format specifier");
  const int64_t n = v.integer();
  const uint64_t magnitude = n < 0 ? 0 - uint64_t(n) : uint64_t(n);
  const char type = char(spec.type | 0x20);
  const int base = type == 'x' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  std::string prefix = spec.alternate && base != 10 ? std::string("0") + spec.type : "";
  if (spec.type == 'c') {
    std::string one;
    append_utf8(one, char32_t(magnitude));
    return padded(spec, "", one, '<');
  }
  return padded(spec, sign_of(n < 0, spec.sign) + prefix,
                grouped(integer_digits(magnitude, base, spec.type == 'X'), spec.group), '>');
}

std::string formatted(Renderer& r, const Value& v, std::string_view spec_text) {
  if (spec_text.empty()) return to_text(v, r.budget());
  const Spec spec = parse_spec(spec_text);
  if (v.is_string() || (v.is_bool() && spec.type == 's')) {
    if (spec.type && spec.type != 's')
      fail(std::string("unknown format code '") + spec.type + "' for object of type 'str'");
    if (spec.align == '=') fail("'=' alignment not allowed in string format specifier");
    std::string text = to_text(v, r.budget());
    if (spec.precision >= 0) text = slice(text, 0, spec.precision, 1);
    return padded(spec, "", text, '<');
  }
  if (!v.is_number()) fail("unsupported format string passed to " + v.type_name());
  if (spec.type == 's') fail("unknown format code 's' for object of type '" + v.type_name() + "'");
  if (v.is_bool() && !spec.type) return padded(spec, "", to_text(v, r.budget()), '<');
  return formatted_number(v, spec);
}

// Resolves "0", "name", "a.b[c]"; an empty name is the next position.
class Fields {
 public:
  Fields(Renderer& r, const Args& args) : r_(r), args_(args) {}

  Value find(std::string_view field) {
    const size_t end = std::min(field.find_first_of(".["), field.size());
    Value v = argument(std::string(field.substr(0, end)));
    for (size_t at = end; at < field.size();) {
      if (field[at] == '.') {
        const size_t stop = std::min(field.find_first_of(".[", at + 1), field.size());
        v = attribute(r_, v, std::string(field.substr(at + 1, stop - at - 1)));
        at = stop;
      } else {
        const size_t stop = field[at] == '[' ? field.find(']', at) : field.npos;
        if (stop == field.npos) fail("malformed format field");
        const std::string key(field.substr(at + 1, stop - at - 1));
        v = item(r_, v, index(key) >= 0 ? Value(index(key)) : Value(key));
        at = stop + 1;
      }
      if (v.is_undefined()) require_defined(v);
    }
    return v;
  }

 private:
  static int64_t index(const std::string& s) {
    if (s.empty() || s.size() > 9 || s.find_first_not_of("0123456789") != s.npos) return -1;
    return std::stoll(s);
  }
  Value argument(const std::string& name) {
    int64_t i = index(name);
    if (name.empty()) {
      i = next_++;
      if (numbered_)
        fail("cannot switch from manual field specification to automatic field numbering");
    } else if (i >= 0) {
      numbered_ = true;
      if (next_ > 0)
        fail("cannot switch from automatic field numbering to manual field specification");
    }
    if (i >= 0) {
      if (i >= int64_t(args_.positional.size()))
        fail("replacement index " + std::to_string(i) + " out of range for positional args tuple");
      return args_.positional[size_t(i)];
    }
    for (const auto& [key, value] : args_.named) {
      if (key == name) return value;
    }
    fail("format has no argument '" + name + "'");
  }

  Renderer& r_;
  const Args& args_;
  int64_t next_ = 0;
  bool numbered_ = false;
};

}  // namespace

Value brace_format(Renderer& r, const Value& format, const Args& args) {
  const std::string& s = format.text();
  std::string out;
  Fields fields(r, args);
  r.budget().make(s.size());
  for (size_t i = 0; i < s.size();) {
    const char c = s[i];
    if ((c == '{' || c == '}') && i + 1 < s.size() && s[i + 1] == c) {
      out += c;
      i += 2;
      continue;
    }
    if (c == '}') fail("single '}' encountered in format string");
    if (c != '{') {
      out += c;
      ++i;
      continue;
    }
    const size_t end = s.find('}', i);
    if (end == std::string::npos) fail("single '{' encountered in format string");
    const std::string_view field = std::string_view(s).substr(i + 1, end - i - 1);
    if (field.find('{') != field.npos) fail("nested format fields are not known");
    const size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    char conversion = 0;
    if (const size_t mark = name.find('!'); mark != name.npos) {
      if (mark + 2 != name.size()) fail("malformed conversion in format string");
      conversion = name[mark + 1];
      name = name.substr(0, mark);
    }
    Value v = fields.find(name);
    if (conversion == 'r') {
      v = Value(to_repr(v, r.budget()));
    } else if (conversion == 's') {
      v = Value(to_text(v, r.budget()));
    } else if (conversion) {
      fail("unknown conversion specifier in format string");
    }
    std::string text =
        formatted(r, v, colon < field.size() ? field.substr(colon + 1) : std::string_view());
    if (format.is_markup() && !v.is_markup()) text = escape_html(text);
    r.budget().make(text.size());
    r.budget().step();
    out += text;
    i = end + 1;
  }
  return Value(std::move(out), format.is_markup());
}

Value percent_format(Renderer& r, const Value& format, const Value& values) {
  const std::string& s = format.text();
  const Array* a = values.array();
  const bool is_tuple = a && a->flavour == Flavour::kTuple;
  size_t next = 0, count = is_tuple ? a->items.size() : 1;
  const auto take = [&]() -> Value {
    if (next >= count) fail("not enough arguments for format string");
    ++next;
    return is_tuple ? a->items[next - 1] : values;
  };
  std::string out;
  r.budget().make(s.size());
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '%') {
      out += s[i];
      continue;
    }
    if (++i >= s.size()) fail("incomplete format");
    std::optional<Value> named;
    if (s[i] == '(') {
      const size_t end = s.find(')', i);
      if (end == std::string::npos) fail("incomplete format key");
      if (!values.dict()) fail("format requires a mapping");
      const Value* v = values.dict()->find(s.substr(i + 1, end - i - 1));
      if (!v) fail("format has no key '" + s.substr(i + 1, end - i - 1) + "'");
      named = *v;
      next = count;
      i = end + 1;
    }
    Spec spec;
    spec.align = '>';
    for (; i < s.size() && std::string_view("-+ #0").find(s[i]) != std::string_view::npos; ++i) {
      if (s[i] == '-') spec.align = '<';
      if (s[i] == '+' || (s[i] == ' ' && spec.sign != '+')) spec.sign = s[i];
      if (s[i] == '#') spec.alternate = true;
      if (s[i] == '0') spec.zero = true;
    }
    spec.width = number_at(s, i);
    if (i < s.size() && s[i] == '.') spec.precision = number_at(s, ++i);
    if (i >= s.size()) fail("incomplete format");
    const char type = s[i];
    if (type == '%') {
      out += '%';
      continue;
    }
    const Value v = named ? *named : take();
    std::string text;
    if (type == 's' || type == 'r' || type == 'a') {
      text = type == 's' ? to_text(v, r.budget()) : to_repr(v, r.budget());
      if (format.is_markup() && !v.is_markup()) text = escape_html(text);
      if (spec.precision >= 0) text = slice(text, 0, spec.precision, 1);
      text = padded(spec, "", text, '>');
    } else if (std::string_view("diuxXoeEfFgG").find(type) != std::string_view::npos) {
      require_defined(v);
      if (!v.is_number())
        fail(std::string("%") + type + " format: a real number is required, not " + v.type_name());
      const bool whole = std::string_view("diuxXo").find(type) != std::string_view::npos;
      if (whole && v.is_float() && !(std::abs(v.real()) < 0x1p63))
        fail("cannot convert float to integer");
      if (whole && type != 'd' && type != 'i' && type != 'u' && v.is_float())
        fail("an integer is required");
      if (spec.zero && spec.align == '>') {
        spec.fill = "0";
        spec.align = '=';
      }
      spec.type = whole && (type == 'i' || type == 'u') ? 'd' : type;
      if (whole) spec.precision = -1;
      text =
          formatted_number(whole ? Value(v.is_float() ? int64_t(v.real()) : v.integer()) : v, spec);
    } else if (type == 'c') {
      text = v.is_string() ? v.text() : "";
      if (v.is_integral()) append_utf8(text, char32_t(v.integer() & 0x1fffff));
      text = padded(spec, "", text, '>');
    } else {
      fail(std::string("unsupported format character '") + type + "'");
    }
    r.budget().make(text.size());
    out += text;
  }
  if (next < count && is_tuple) fail("not all arguments converted during string formatting");
  if (next < count && !values.dict() && !(a && a->flavour == Flavour::kList)) {
    fail("not all arguments converted during string formatting");
  }
  return Value(std::move(out), format.is_markup());
}

}  // namespace tutti::text::jinja
