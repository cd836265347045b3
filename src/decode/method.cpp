#include "decode/method.h"

#include <charconv>
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
       {{"width", "4", "beams kept per step"},
        {"length_penalty", "1.0", "score = log-probability / length^penalty"}},
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

int int_option(const Generation& g, std::string_view option, int default_value, int least, int most) {
  return int(number_option(g, option, default_value, least, most));
}

double number_option(const Generation& g, std::string_view option, double default_value, double least,
                     double most) {
  const auto it = g.options().method_options.find(std::string(option));
  if (it == g.options().method_options.end()) return default_value;
  char* end = nullptr;
  const double value = std::strtod(it->second.c_str(), &end);
  if (end == it->second.c_str() || *end != '\0' || !(value >= least && value <= most)) {
    throw Error(ErrorKind::kUsage, "option " + std::string(option) + "=" + it->second + ": wants a number in [" +
                                       std::to_string(least) + ", " + std::to_string(most) + "]");
  }
  return value;
}

}  // namespace tutti::decode
