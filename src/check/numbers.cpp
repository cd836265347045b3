#include "check/numbers.h"

#include <algorithm>

namespace tutti::check {
namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }
bool numeric(char c) { return digit(c) || c == '$' || c == '.' || c == ','; }

// The length of the match that begins at `at`; 0: none.
size_t number_at(std::string_view text, size_t at) {
  const size_t sign = text[at] == '-' ? 1 : 0;
  size_t end = at + sign;
  while (end < text.size() && numeric(text[end])) ++end;
  if (end - at - sign >= 2) return end - at;
  end = at + sign;
  while (end < text.size() && digit(text[end])) ++end;
  return end > at + sign ? end - at : 0;
}

}  // namespace

std::string last_number(std::string_view text) {
  std::string_view last;
  for (size_t at = 0; at < text.size();) {
    const size_t length = number_at(text, at);
    if (length > 0) last = text.substr(at, length);
    at += std::max<size_t>(1, length);
  }
  return std::string(last);
}

std::string boxed(std::string_view text) {
  constexpr std::string_view kOpen = "\\boxed{";
  const size_t at = text.rfind(kOpen);
  if (at == std::string_view::npos) return {};
  int depth = 1;
  for (size_t i = at + kOpen.size(); i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0)
      return std::string(text.substr(at + kOpen.size(), i - at - kOpen.size()));
  }
  return {};
}

std::string normalised_number(std::string_view text) {
  constexpr std::string_view kMark = "#### ";
  std::string out;
  for (const char c : text) {
    if (c != '$' && c != ',') out += c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  }
  if (const size_t mark = out.rfind(kMark); mark != std::string::npos)
    out.erase(0, mark + kMark.size());
  if (!out.empty() && out.back() == '.') out.pop_back();
  return out;
}

bool same_number(std::string_view written, std::string_view gold) {
  const std::string box = boxed(written);
  const std::string number = last_number(box.empty() ? written : box);
  return !number.empty() && normalised_number(number) == normalised_number(gold);
}

}  // namespace tutti::check
