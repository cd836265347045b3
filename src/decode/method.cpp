#include "decode/method.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "decode/beam/beam.h"
#include "decode/generation.h"
#include "decode/plain/plain.h"

namespace tutti::decode {

std::string_view name(Guarantee guarantee) {
  switch (guarantee) {
    case Guarantee::kLossless: return "lossless";
    case Guarantee::kLosslessInLaw: return "lossless in law";
    case Guarantee::kApproximate: return "approximate";
  }
  return "";
}

std::span<const Method> methods() {
  static const std::vector<Method> kMethods = {
      {"plain", "token by token", "any causal model", Guarantee::kLossless, {}, plain},
      {"beam",
       "beam search",
       "any causal model",
       Guarantee::kApproximate,
       {{"width", "4", "beams kept per step, 1 to 64"},
        {"length_penalty", "1.0", "score = log-probability / length^penalty, -10 to 10"},
        {"exact_stop", "0",
         "0: stop when no open beam beats the finished ones as it stands; 1: when none can, however it grows"}},
       beam},
  };
  return kMethods;
}

const Method& find_method(std::string_view wanted) {
  std::string names;
  for (const Method& method : methods()) {
    if (method.name == wanted) return method;
    names += (names.empty() ? "" : ", ") + std::string(method.name);
  }
  throw Error(ErrorKind::kUsage, "method " + std::string(wanted) + ": unknown; methods are " + names);
}

namespace {

std::string print_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

double read_option(const Generation& g, std::string_view option, double least, double most, bool whole) {
  const Method& method = find_method(g.options().method);
  const auto declared = std::find_if(method.options.begin(), method.options.end(),
                                     [&](const MethodOption& o) { return o.name == option; });
  assert(declared != method.options.end());
  const auto given = g.options().method_options.find(std::string(option));
  const std::string text =
      given != g.options().method_options.end() ? given->second : std::string(declared->default_value);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool read = !text.empty() && end == text.c_str() + text.size();
  if (!read || !(value >= least && value <= most) || (whole && value != std::floor(value))) {
    throw Error(ErrorKind::kUsage, "option " + std::string(option) + "=" + text + ": wants a " +
                                       (whole ? "whole number" : "number") + " from " + print_number(least) +
                                       " to " + print_number(most));
  }
  return value;
}

}  // namespace

int int_option(const Generation& g, std::string_view option, int least, int most) {
  return int(read_option(g, option, least, most, true));
}

double number_option(const Generation& g, std::string_view option, double least, double most) {
  return read_option(g, option, least, most, false);
}

}  // namespace tutti::decode
