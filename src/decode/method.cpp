#include "decode/method.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "decode/anyorder/method.h"
#include "decode/beam/beam.h"
#include "decode/diffusion/diffusion.h"
#include "decode/diffusion/options.h"
#include "decode/generation.h"
#include "decode/hidden_transfer/hidden_transfer.h"
#include "decode/pearl/pearl.h"
#include "decode/plain/plain.h"
#include "decode/ppd/ppd.h"
#include "decode/speculative/draft.h"
#include "decode/speculative/lookup.h"

namespace tutti::decode {

std::string_view name(Guarantee guarantee) {
  switch (guarantee) {
    case Guarantee::kLossless:
      return "lossless";
    case Guarantee::kLosslessInLaw:
      return "lossless in law";
    case Guarantee::kApproximate:
      return "approximate";
  }
  return "";
}

std::span<const Method> methods() {
  static const std::vector<Method> kMethods = {
      {"plain",
       "token by token",
       "any causal model",
       Reads::kCausal,
       Guarantee::kLossless,
       {},
       plain},
      {"beam",
       "beam search",
       "any causal model",
       Reads::kCausal,
       Guarantee::kApproximate,
       {{"width", "4", "beams kept per step, 1 to 64"},
        {"length_penalty", "1.0", "score = log-probability / length^penalty, -10 to 10"},
        {"exact_stop", "0",
         "0: stop when no open beam beats the finished ones as it stands; 1: when none can, "
         "however it grows"}},
       beam},
      {"lookup", "prompt lookup (Saxena 2023) by a suffix automaton (arXiv 2411.10666)",
       "any causal model", Reads::kCausal, Guarantee::kLossless, lookup_options(), lookup},
      {"draft", "speculative decoding (arXiv 2211.17192, 2302.01318) under shared noise",
       "any causal model, and a smaller one of the same vocabulary", Reads::kCausal,
       Guarantee::kLossless, draft_options(), draft, true},
      {"early-exit", "self-speculation by the first layers (LayerSkip, arXiv 2404.16710)",
       "any causal model", Reads::kCausal, Guarantee::kLossless, early_exit_options(), early_exit},
      {"pearl", "PEARL (arXiv 2408.11850): draft model and target at the same time",
       "any causal model, and a smaller one of the same vocabulary on cores of its own",
       Reads::kCausal, Guarantee::kLossless, pearl_options(), pearl, true},
      {"ppd", "parallel prompt decoding (arXiv 2405.18628) with a dynamic tree",
       "any causal model, and prompt tokens that were trained on it", Reads::kCausal,
       Guarantee::kLossless, ppd_options(), ppd_method, true},
      {"hidden-transfer",
       "Hidden Transfer (arXiv 2404.12022): rows that enter between layers guess the next tokens",
       "any causal model, and maps trained for it", Reads::kCausal, Guarantee::kLossless,
       hidden_transfer_options(), hidden_transfer, true},
      {"medusa", "Medusa (arXiv 2401.10774), blocks before the model's own head",
       "any causal model, and blocks trained for it", Reads::kCausal, Guarantee::kLossless,
       medusa_options(), medusa, true},
      {"diffusion",
       "masked diffusion: LLaDA, Dream, SDAR; Fast-dLLM and others by policy and cache",
       "a masked model", Reads::kMasked, Guarantee::kApproximate,
       diffusion::diffusion_method_options(), diffusion_method},
      {"freedave",
       "Free Draft-and-Verification, arXiv 2510.00294: the text of diffusion with the same policy, "
       "fewer forwards",
       "a masked model", Reads::kMasked, Guarantee::kLossless, diffusion::freedave_method_options(),
       freedave_method},
      {"any-order", "one token a forward, in any order (XLNet, arXiv 1906.08237)",
       "a two-stream model (XLNet)", Reads::kAnyOrder, Guarantee::kLossless,
       anyorder::sequential_options(), any_order_method},
      {"assd",
       "any-subset speculative decoding, arXiv 2504.20456: the text of any-order with the same "
       "order, fewer forwards",
       "a two-stream model (XLNet)", Reads::kAnyOrder, Guarantee::kLossless,
       anyorder::assd_options(), assd_method},
  };
  return kMethods;
}

const Method& find_method(std::string_view wanted) {
  std::string names;
  for (const Method& method : methods()) {
    if (method.name == wanted) return method;
    names += (names.empty() ? "" : ", ") + std::string(method.name);
  }
  throw Error(ErrorKind::kUsage,
              "method " + std::string(wanted) + ": unknown; methods are " + names);
}

const Method& method_for(std::string_view wanted, const models::Config& config) {
  using models::AttentionKind;
  models::require_head(config, "method " + std::string(wanted));
  const Reads reads = config.attention == AttentionKind::kCausal        ? Reads::kCausal
                      : config.attention == AttentionKind::kPermutation ? Reads::kAnyOrder
                                                                        : Reads::kMasked;
  const auto fits = [&](const Method& m) { return m.reads == reads; };
  if (wanted == "auto")
    return reads == Reads::kCausal ? find_method("lookup") : *std::ranges::find_if(methods(), fits);
  const Method& method = find_method(wanted);
  if (fits(method)) return method;
  std::string names;
  for (const Method& m : methods()) {
    if (fits(m)) names += (names.empty() ? "" : ", ") + std::string(m.name);
  }
  throw Error(ErrorKind::kUnsupported,
              "method " + std::string(wanted) + ": reads " + std::string(method.needs) +
                  ", but this one (" + config.architecture + ") " +
                  (reads == Reads::kMasked   ? "fills in masked tokens"
                   : reads == Reads::kCausal ? "is causal"
                                             : "decides tokens in any order") +
                  "; use " + names);
}

namespace {

std::string print_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

const MethodOption* find_option(const Generation& g, std::string_view option) {
  const Method& method = find_method(g.options().method);
  const auto it = std::ranges::find(method.options, option, &MethodOption::name);
  return it == method.options.end() ? nullptr : &*it;
}

double read_option(const Generation& g, std::string_view option, double least, double most,
                   bool whole) {
  const std::string text = text_option(g, option);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool read = !text.empty() && end == text.c_str() + text.size();
  if (!read || !(value >= least && value <= most) || (whole && value != std::floor(value))) {
    throw Error(ErrorKind::kUsage, "option " + std::string(option) + "=" + text + ": wants a " +
                                       (whole ? "whole number" : "number") + " from " +
                                       print_number(least) + " to " + print_number(most));
  }
  return value;
}

}  // namespace

std::string text_option(const Generation& g, std::string_view option) {
  const auto given = g.options().method_options.find(std::string(option));
  if (given != g.options().method_options.end()) return given->second;
  return std::string(default_of(g, option));
}

std::string_view default_of(const Generation& g, std::string_view option) {
  const MethodOption* declared = find_option(g, option);
  assert(declared);
  return declared->default_value;
}

bool has_option(const Generation& g, std::string_view option) {
  return find_option(g, option) != nullptr;
}

int int_option(const Generation& g, std::string_view option, int least, int most) {
  return int(read_option(g, option, least, most, true));
}

double number_option(const Generation& g, std::string_view option, double least, double most) {
  return read_option(g, option, least, most, false);
}

}  // namespace tutti::decode
