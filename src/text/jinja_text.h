// Python's str methods on UTF-8 text. Positions and lengths are in characters (code points), as in
// Python.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_budget.h"

namespace tutti::text::jinja {

// Bytes that are no UTF-8 count as one character each.
char32_t decode_at(std::string_view text, size_t& position);
void append_utf8(std::string& out, char32_t c);
std::vector<std::string_view> characters(std::string_view text);
size_t count_characters(std::string_view text);
bool is_ascii(std::string_view text);

bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_cased_upper(char32_t c);
bool is_cased_lower(char32_t c);
bool is_letter(char32_t c);
bool is_digit(char32_t c);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string capitalise(std::string_view text);
// str.title(): every letter after a non-letter.
std::string title_case(std::string_view text);

enum class Side { kLeft, kRight, kBoth };
// Strips white space, or any of `chars` when given.
std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> chars = {});
// str.split / str.rsplit; without a separator at runs of white space. `limit` < 0: no limit.
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
// str.replace; `limit` < 0: all.
std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit, Budget& budget);
// text[start:stop:step] with Python's rules; step != 0.
std::string slice(std::string_view text, std::optional<int64_t> start, std::optional<int64_t> stop,
                  int64_t step);
// The indices start:stop:step selects of n elements.
std::vector<size_t> slice_indices(size_t n, std::optional<int64_t> start,
                                  std::optional<int64_t> stop, int64_t step);
// HTML escaping as markupsafe does it.
std::string escape_html(std::string_view text);

}  // namespace tutti::text::jinja
