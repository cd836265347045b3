#include <algorithm>
#include <ctime>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/jinja_runtime.h"

namespace tutti::text::jinja {

namespace {

constexpr int64_t kMaxRange = 100'000;  // as in jinja2's sandbox

Value range(Renderer& r, const Args& args) {
  if (!args.named.empty() || args.positional.empty() || args.positional.size() > 3) {
    fail("range takes 1 to 3 positional arguments");
  }
  int64_t at[3] = {0, 0, 1};
  const size_t n = args.positional.size();
  for (size_t i = 0; i < n; ++i) {
    const Value& v = args.positional[i];
    require_defined(v);
    if (!v.is_integral())
      fail("'" + v.type_name() + "' object cannot be interpreted as an integer");
    at[n == 1 ? 1 : i] = v.integer();
  }
  if (at[2] == 0) fail("range() arg 3 must not be zero");
  const __int128 span = at[2] > 0 ? __int128(at[1]) - at[0] : __int128(at[0]) - at[1];
  const __int128 step = at[2] > 0 ? __int128(at[2]) : -__int128(at[2]);
  const __int128 count = span <= 0 ? 0 : (span + step - 1) / step;
  if (count > kMaxRange) throw Error(ErrorKind::kLimit, "range() of more than 100000 elements");
  r.budget().make(uint64_t(count), sizeof(Value));
  r.budget().step(uint64_t(count));
  std::vector<Value> items;
  for (int64_t i = 0; i < int64_t(count); ++i) items.emplace_back(at[0] + i * at[2]);
  std::string label = "range(" + std::to_string(at[0]) + ", " + std::to_string(at[1]);
  if (at[2] != 1) label += ", " + std::to_string(at[2]);
  return make_array(std::move(items), Flavour::kRange, label + ")");
}

// dict(mapping or pairs, name=value ...)
Dict new_dict(Renderer& r, const Args& args) {
  if (args.positional.size() > 1) fail("dict expected at most 1 argument");
  Dict out;
  for (const Value& v : args.positional) {
    if (const Dict* d = v.dict()) {
      for (const auto& [key, value] : d->entries) out.set(key, value, r.budget());
      continue;
    }
    for (const Value& pair : iterate(v, r.budget())) {
      const std::vector<Value> parts = iterate(pair, r.budget());
      if (parts.size() != 2) fail("dictionary update sequence element has not length 2");
      require_hashable(parts[0]);
      out.set(parts[0], parts[1], r.budget());
    }
  }
  for (const auto& [name, value] : args.named) out.set(Value(name), value, r.budget());
  return out;
}

Value new_namespace(Renderer& r, const Args& args) {
  Dict attributes = new_dict(r, args);
  for (const auto& [key, _] : attributes.entries) {
    if (key.is_string() && key.text().starts_with("_")) {
      fail("a namespace holds no names that start with an underscore");
    }
  }
  Namespace* n = r.make_namespace();
  n->attributes = std::move(attributes);
  return Value(n);
}

Value raise_exception(Renderer& r, const Args& args) {
  const Bound bound("raise_exception", args, {"message"}, 1);
  fail(to_text(*bound[0], r.budget()));
}

Value strftime_now(Renderer& r, const Args& args) {
  const Bound bound("strftime_now", args, {"format"}, 1);
  const std::string format = bound.text(0, "");
  if (format.empty()) return Value("");
  if (format.size() > 1000) fail("strftime_now: the format is too long");
  const std::time_t now = std::chrono::system_clock::to_time_t(r.now());
  std::tm parts{};
  localtime_r(&now, &parts);
  std::vector<char> out(16'384 + format.size() * 8);
  // A final mark tells an empty result from one that did not fit.
  const size_t n = std::strftime(out.data(), out.size(), (format + ".").c_str(), &parts);
  if (n == 0) fail("strftime_now: the result is too long");
  return r.text(std::string(out.data(), n - 1));
}

// joiner(", ")() is "" the first time and ", " afterwards.
Value new_joiner(Renderer&, const Args& args) {
  const Bound bound("joiner", args, {"sep"});
  const Value separator(bound.text(0, ", "));
  return make_callable("joiner", 0,
                       [separator, used = std::make_shared<bool>(false)](Renderer&, const Args&) {
                         return std::exchange(*used, true) ? separator : Value("");
                       });
}

}  // namespace

Value find_global(const std::string& name) {
  if (name == "range") return make_callable(name, 0, range);
  if (name == "namespace") return make_callable(name, 0, new_namespace);
  if (name == "dict") {
    return make_callable(
        name, 0, [](Renderer& r, const Args& args) { return make_dict(new_dict(r, args)); });
  }
  if (name == "joiner") return make_callable(name, 0, new_joiner);
  if (name == "raise_exception") return make_callable(name, 0, raise_exception);
  if (name == "strftime_now") return make_callable(name, 0, strftime_now);
  return {};
}

Bound::Bound(const char* callee, const Args& args, std::initializer_list<const char*> names,
             size_t required)
    : callee_(callee), values_(names.size()) {
  if (args.positional.size() > names.size()) {
    fail(std::string(callee) + " takes at most " + std::to_string(names.size()) + " arguments");
  }
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto it = std::find(names.begin(), names.end(), name);
    const size_t i = size_t(it - names.begin());
    if (it == names.end())
      fail(std::string(callee) + " got an unexpected keyword argument '" + name + "'");
    if (values_[i]) fail(std::string(callee) + " got multiple values for argument '" + name + "'");
    values_[i] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!values_[i])
      fail(std::string(callee) + " needs the argument '" + *(names.begin() + i) + "'");
  }
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!values_[i]) return otherwise;
  require_defined(*values_[i]);
  if (!values_[i]->is_integral())
    fail(std::string(callee_) + ": an argument must be an integer, not " + values_[i]->type_name());
  return values_[i]->integer();
}

std::string Bound::text(size_t i, const std::string& otherwise) const {
  if (!values_[i]) return otherwise;
  require_defined(*values_[i]);
  if (!values_[i]->is_string())
    fail(std::string(callee_) + ": an argument must be str, not " + values_[i]->type_name());
  return values_[i]->text();
}

}  // namespace tutti::text::jinja
