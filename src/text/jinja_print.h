// Values as text: str(), repr() and json.dumps() of Python.
#pragma once

#include <string>

#include "text/jinja_budget.h"
#include "text/jinja_value.h"

namespace tutti::text::jinja {

std::string to_text(const Value& v, Budget& budget);
std::string to_repr(const Value& v, Budget& budget);
// repr(float): the shortest digits that read back, 1e16 and 1e-05 style outside of [1e-4, 1e16).
std::string float_text(double v);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool multiline = false;
  std::string indent;  // one level, when multiline
};
std::string to_json(const Value& v, const JsonStyle& style, Budget& budget);

}  // namespace tutti::text::jinja
