#include "text/jinja_text.h"

#include <algorithm>
#include <iterator>

namespace tutti::text::jinja {

namespace {

struct CaseRun {
  uint32_t first, last, stride;
  int32_t delta;
};
struct LongCase {  // what one character becomes; zeros are unused
  uint32_t from, to[3];
};
struct Range {
  uint32_t first, last;
};

#include "text/jinja_unicode.inc"

template <size_t n>
bool in_ranges(const Range (&table)[n], char32_t c) {
  const auto* it = std::upper_bound(std::begin(table), std::end(table), uint32_t(c),
                                    [](uint32_t v, const Range& r) { return v < r.first; });
  return it != std::begin(table) && uint32_t(c) <= (it - 1)->last;
}

// Runs of different strides interleave, so a later run may start before an earlier one ends.
template <size_t n>
char32_t mapped(const CaseRun (&table)[n], char32_t c) {
  const auto* it = std::upper_bound(std::begin(table), std::end(table), uint32_t(c),
                                    [](uint32_t v, const CaseRun& r) { return v < r.first; });
  for (int back = 0; back < 3 && it != std::begin(table); ++back) {
    --it;
    if (uint32_t(c) <= it->last && (uint32_t(c) - it->first) % it->stride == 0) {
      return char32_t(int64_t(c) + it->delta);
    }
  }
  return c;
}

template <size_t n>
bool append_special(std::string& out, const LongCase (&table)[n], char32_t c) {
  for (const LongCase& special : table) {
    if (special.from != c) continue;
    for (const uint32_t part : special.to) {
      if (part) append_utf8(out, part);
    }
    return true;
  }
  return false;
}

void append_upper(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += char(c >= 'a' && c <= 'z' ? c - 32 : c);
  } else if (!append_special(out, kLongUpper, c)) {
    append_utf8(out, mapped(kUpper, c));
  }
}

void append_title(std::string& out, char32_t c) {
  if (c < 0x80 || !append_special(out, kTitle, c)) append_upper(out, c);
}

void append_lower(std::string& out, char32_t c, bool final_sigma) {
  if (c < 0x80) {
    out += char(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (c == 0x130) {  // capital I with a dot keeps the dot
    out += "i\xcc\x87";
  } else if (c == 0x3a3 && final_sigma) {
    append_utf8(out, 0x3c2);
  } else {
    append_utf8(out, mapped(kLower, c));
  }
}

bool is_cased(char32_t c) { return is_cased_upper(c) || is_cased_lower(c); }

// Lowers `text` into `out`, given the character before it (a sigma is final after a letter and
// before none).
void lower_into(std::string& out, std::string_view text, bool after_letter) {
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    bool final_sigma = false;
    if (c == 0x3a3 && after_letter) {
      size_t next = i;
      final_sigma = i >= text.size() || !is_cased(decode_at(text, next));
    }
    append_lower(out, c, final_sigma);
    after_letter = is_cased(c);
  }
}

std::vector<char32_t> code_points(std::string_view text) {
  std::vector<char32_t> out;
  for (size_t i = 0; i < text.size();) out.push_back(decode_at(text, i));
  return out;
}

}  // namespace

char32_t decode_at(std::string_view text, size_t& position) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(position);
  const int extra = lead < 0x80                   ? 0
                    : lead >= 0xf0 && lead < 0xf8 ? 3
                    : lead >= 0xe0 && lead < 0xf0 ? 2
                    : lead >= 0xc0 && lead < 0xe0 ? 1
                                                  : -1;
  if (extra < 0 || position + size_t(extra) >= text.size()) {
    ++position;
    return lead < 0x80 ? lead : 0xfffd;
  }
  char32_t c = extra == 0 ? lead : lead & (0x3f >> extra);
  for (int k = 1; k <= extra; ++k) {
    if ((byte(position + size_t(k)) & 0xc0) != 0x80) {
      ++position;
      return 0xfffd;
    }
    c = (c << 6) | (byte(position + size_t(k)) & 0x3f);
  }
  position += size_t(extra) + 1;
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += char(0xc0 | (c >> 6));
    out += char(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += char(0xe0 | (c >> 12));
    out += char(0x80 | ((c >> 6) & 0x3f));
    out += char(0x80 | (c & 0x3f));
  } else {
    out += char(0xf0 | (c >> 18));
    out += char(0x80 | ((c >> 12) & 0x3f));
    out += char(0x80 | ((c >> 6) & 0x3f));
    out += char(0x80 | (c & 0x3f));
  }
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0x80; });
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    decode_at(text, i);
    out.push_back(text.substr(start, i - start));
  }
  return out;
}

size_t count_characters(std::string_view text) {
  if (is_ascii(text)) return text.size();
  size_t n = 0;
  for (size_t i = 0; i < text.size(); ++n) decode_at(text, i);
  return n;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}
bool is_printable(char32_t c) { return !in_ranges(kUnprintable, c); }
bool is_cased_upper(char32_t c) { return in_ranges(kUppercase, c); }
bool is_cased_lower(char32_t c) { return in_ranges(kLowercase, c); }
bool is_letter(char32_t c) { return in_ranges(kLetter, c); }
bool is_digit(char32_t c) { return in_ranges(kDigit, c); }

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) append_upper(out, decode_at(text, i));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  lower_into(out, text, false);
  return out;
}

std::string capitalise(std::string_view text) {
  std::string out;
  if (text.empty()) return out;
  size_t i = 0;
  const char32_t first = decode_at(text, i);
  append_title(out, first);
  lower_into(out, text.substr(i), is_cased(first));
  return out;
}

std::string title_case(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    if (inside) {
      append_lower(out, c, false);
    } else {
      append_title(out, c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> chars) {
  std::vector<char32_t> set;
  if (chars) set = code_points(*chars);
  const auto drop = [&](char32_t c) {
    return chars ? std::find(set.begin(), set.end(), c) != set.end() : is_space(c);
  };
  size_t first = 0, last = text.size();
  while (side != Side::kRight && first < last) {
    size_t next = first;
    if (!drop(decode_at(text, next))) break;
    first = next;
  }
  while (side != Side::kLeft && last > first) {
    size_t start = last - 1;
    while (start > first && (uint8_t(text[start]) & 0xc0) == 0x80) --start;
    size_t next = start;
    const char32_t c = decode_at(text, next);
    if (next != last || !drop(c)) break;
    last = start;
  }
  return text.substr(first, last - first);
}

namespace {

std::vector<std::string> split_at_space(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string> out;
  const Side near = from_right ? Side::kRight : Side::kLeft;
  std::string_view rest = strip(text, near);
  while (!rest.empty()) {
    if (limit >= 0 && int64_t(out.size()) == limit) {
      out.emplace_back(strip(rest, from_right ? Side::kLeft : Side::kRight).empty()
                           ? std::string()
                           : std::string(rest));
      break;
    }
    size_t first = 0, last = 0;  // of the word, relative to rest
    if (from_right) {
      last = first = rest.size();
      while (first > 0) {
        size_t start = first - 1;
        while (start > 0 && (uint8_t(rest[start]) & 0xc0) == 0x80) --start;
        size_t next = start;
        if (is_space(decode_at(rest, next))) break;
        first = start;
      }
    } else {
      while (last < rest.size()) {
        size_t next = last;
        if (is_space(decode_at(rest, next))) break;
        last = next;
      }
    }
    out.emplace_back(rest.substr(first, last - first));
    rest = strip(from_right ? rest.substr(0, first) : rest.substr(last), near);
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit, bool from_right) {
  if (!separator) return split_at_space(text, limit, from_right);
  std::vector<std::string> out;
  while (limit < 0 || int64_t(out.size()) < limit) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    if (from_right) {
      out.emplace_back(text.substr(at + separator->size()));
      text = text.substr(0, at);
    } else {
      out.emplace_back(text.substr(0, at));
      text = text.substr(at + separator->size());
    }
  }
  out.emplace_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> out;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = decode_at(text, i);
    const bool end =
        (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!end) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    out.emplace_back(text.substr(start, (keep_ends ? i : at) - start));
    start = i;
  }
  if (start < text.size()) out.emplace_back(text.substr(start));
  return out;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit, Budget& budget) {
  std::string out;
  int64_t done = 0;
  budget.search(text.size(), from.size());
  const auto put = [&](std::string_view part) {
    if (out.size() + part.size() > out.capacity()) {
      budget.make(2 * (out.size() + part.size()));
      out.reserve(2 * (out.size() + part.size()));
    }
    out += part;
  };
  if (from.empty()) {  // between all characters, and at both ends
    for (const std::string_view c : characters(text)) {
      if (limit < 0 || done++ < limit) put(to);
      put(c);
    }
    if (limit < 0 || done < limit) put(to);
    return out;
  }
  while (limit < 0 || done < limit) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    put(text.substr(0, at));
    put(to);
    text = text.substr(at + from.size());
    ++done;
  }
  put(text);
  return out;
}

std::vector<size_t> slice_indices(size_t n, std::optional<int64_t> start,
                                  std::optional<int64_t> stop, int64_t step) {
  const int64_t size = int64_t(n);
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto place = [&](std::optional<int64_t> at, int64_t otherwise) {
    if (!at) return otherwise;
    return std::clamp(*at < 0 ? std::max(*at, -size - 1) + size : *at, low, high);
  };
  const int64_t first = place(start, step < 0 ? high : low);
  const int64_t last = place(stop, step < 0 ? low : high);
  std::vector<size_t> out;
  const int64_t stride = std::clamp<int64_t>(step, -size - 1, size + 1);
  for (int64_t i = first; stride > 0 ? i < last : i > last; i += stride) out.push_back(size_t(i));
  return out;
}

std::string slice(std::string_view text, std::optional<int64_t> start, std::optional<int64_t> stop,
                  int64_t step) {
  std::string out;
  if (is_ascii(text)) {
    for (const size_t i : slice_indices(text.size(), start, stop, step)) out += text[i];
    return out;
  }
  const auto parts = characters(text);
  for (const size_t i : slice_indices(parts.size(), start, stop, step)) out += parts[i];
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace tutti::text::jinja
