// What templates can call: operators, attributes and methods, filters, tests, global functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_syntax.h"
#include "text/jinja_value.h"

namespace tutti::text::jinja {

// Null when there is none of that name.
Filter find_filter(std::string_view name);
Predicate find_predicate(std::string_view name);
// range, dict, namespace, joiner, raise_exception, strftime_now; undefined for other names.
Value find_global(const std::string& name);

// object.name and object[key], with jinja2's order of looking at methods and items. What is absent
// is undefined.
Value attribute(Renderer& r, const Value& object, const std::string& name);
Value item(Renderer& r, const Value& object, const Value& key);
// A method of a text, list, dict or number bound to it; undefined when there is none that is safe.
Value method(const Value& object, const std::string& name);
// attribute "a.b.0" of filters like map and sort
Value attribute_path(Renderer& r, const Value& object, const Value& path);

// object[start:stop:step]; null bounds are left out.
Value slice_of(Renderer& r, const Value& object, const Value* bounds[3]);

// + - * / // % **
Value binary(Renderer& r, const std::string& op, const Value& a, const Value& b);
// "%s and %d" % values
Value percent_format(Renderer& r, const Value& format, const Value& values);
// "{} and {name:>5}".format(...)
Value brace_format(Renderer& r, const Value& format, const Args& args);

// Arguments by position or name. Throws on surplus, unknown or doubled ones.
class Bound {
 public:
  Bound(const char* callee, const Args& args, std::initializer_list<const char*> names,
        size_t required = 0);
  const Value* operator[](size_t i) const { return values_[i] ? &*values_[i] : nullptr; }
  bool truthy(size_t i, bool otherwise) const {
    return values_[i] ? values_[i]->truthy() : otherwise;
  }
  int64_t integer(size_t i, int64_t otherwise) const;
  // Throws when it is no text.
  std::string text(size_t i, const std::string& otherwise) const;

 private:
  const char* callee_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace tutti::text::jinja
