#include "cli/sampling_options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <optional>

#include "base/error.h"

namespace tutti::cli {

void SamplingOptions::add_to(CLI::App& app) {
  auto& s = generation.sampling;
  app.add_option("-n,--max-tokens,--n-predict", generation.max_tokens,
                 "tokens to generate; -1: until the context is full")
      ->capture_default_str();
  app.add_option("-c,--ctx-size", generation.context_tokens,
                 "prompt and answer together at most; 0: the model's context")
      ->capture_default_str();
  app.add_option("--temp,--temperature", s.temperature, "0 takes the likeliest token")
      ->capture_default_str();
  app.add_option("-s,--seed", seed,
                 "the same seed gives the same text, whatever runs beside; -1: a new one each time")
      ->capture_default_str();
  app.add_option("--samples", generation.n, "samples of the same prompt, in one batch")
      ->capture_default_str();
  app.add_option("--top-k", s.top_k, "keep the k likeliest tokens; 0: off")->capture_default_str();
  app.add_option("--top-p", s.top_p, "keep the likeliest tokens of this mass; 1: off")
      ->capture_default_str();
  app.add_option("--min-p", s.min_p,
                 "drop tokens below this share of the likeliest one's probability; 0: off")
      ->capture_default_str();
  app.add_option("--typical,--typical-p", s.typical_p,
                 "locally typical sampling, mass to keep; 1: off")
      ->capture_default_str();
  app.add_option("--repeat-penalty", s.repetition_penalty,
                 "divides the logits of tokens seen before; 1: off")
      ->capture_default_str();
  app.add_option("--repeat-last-n", s.penalty_window,
                 "tokens that the repeat penalty looks at; -1: all, 0: none")
      ->capture_default_str();
  app.add_option("--presence-penalty", s.presence_penalty,
                 "taken off the logits of tokens already generated; 0: off")
      ->capture_default_str();
  app.add_option("--frequency-penalty", s.frequency_penalty, "the same, times how often; 0: off")
      ->capture_default_str();
  app.add_option("--logit-bias", bias,
                 "ID:VALUE, ID+VALUE or ID-VALUE; -inf forbids; may be repeated");
  app.add_option("--samplers", order, "the rules in the order of their use")
      ->default_str(engine::print_order(engine::default_order()));
  app.add_option("--logprobs", s.logprobs,
                 "with --json: log-probabilities and this many alternatives; -1: none")
      ->capture_default_str();
  app.add_option("-r,--stop,--reverse-prompt", generation.stop,
                 "end the text before this string; may be repeated");
  app.add_flag("--ignore-eos", generation.ignore_eos, "go on past the end token");
  app.add_option(
         "--method", generation.method,
         "how tokens are found; see 'tutti methods'; auto: plain, or diffusion for masked models")
      ->capture_default_str();
  app.add_option("-o,--option", method_settings, "key=value for the method; may be repeated");
}

namespace {

// "42:-1.5", or as llama.cpp writes it "42-1.5" and "42+1.5".
std::pair<int32_t, float> parse_bias(const std::string& text) {
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  int32_t id = 0;
  const auto read = std::from_chars(at, end, id);
  at = read.ptr;
  if (read.ec == std::errc() && id >= 0 && at != end && (*at == ':' || *at == '+' || *at == '-')) {
    if (*at == ':') ++at;
    if (at != end && *at == '+') ++at;
    float value = 0;
    const auto number = std::from_chars(at, end, value);
    if (number.ec == std::errc() && number.ptr == end) return {id, value};
  }
  throw Error(ErrorKind::kUsage, "--logit-bias " + text + ": wants ID:VALUE, for example 42:-1.5");
}

std::optional<uint64_t> parse_seed(const std::string& text) {
  if (text == "-1") return std::nullopt;
  uint64_t seed = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (read.ec != std::errc() || read.ptr != text.data() + text.size()) {
    throw Error(
        ErrorKind::kUsage,
        "--seed " + text + ": wants a whole number below 2^64, or -1 for a new one each time");
  }
  return seed;
}

}  // namespace

decode::GenerationOptions SamplingOptions::resolve() const {
  decode::GenerationOptions g = generation;
  g.seed = parse_seed(seed);
  if (!order.empty()) g.sampling.order = engine::parse_order(order);
  for (const auto& text : bias) g.sampling.logit_bias.push_back(parse_bias(text));
  for (auto& [name, value] : method_options_of(method_settings)) g.method_options[name] = value;
  return g;
}

std::map<std::string, std::string> method_options_of(const std::vector<std::string>& settings) {
  std::map<std::string, std::string> options;
  for (const std::string& text : settings) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error(ErrorKind::kUsage, "--option " + text + ": wants key=value");
    options[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return options;
}

}  // namespace tutti::cli
