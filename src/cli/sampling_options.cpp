#include "cli/sampling_options.h"

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace tutti::cli {

void SamplingOptions::add_to(CLI::App& app) {
  auto& s = generation.sampling;
  app.add_option("-n,--max-tokens,--n-predict", generation.max_tokens, "tokens to generate; -1: until the context is full")
      ->capture_default_str();
  app.add_option("--temp,--temperature", s.temperature, "0 takes the likeliest token")->capture_default_str();
  app.add_option("--seed", seed, "the same seed gives the same text; default: a new one each time");
  app.add_option("--samples", generation.n, "samples of the same prompt, in one batch")->capture_default_str();
  app.add_option("--top-k", s.top_k, "0: off")->capture_default_str();
  app.add_option("--top-p", s.top_p, "1: off")->capture_default_str();
  app.add_option("--min-p", s.min_p, "0: off")->capture_default_str();
  app.add_option("--typical", s.typical_p, "locally typical sampling; 1: off")->capture_default_str();
  app.add_option("--repeat-penalty", s.repetition_penalty, "1: off")->capture_default_str();
  app.add_option("--repeat-last-n", s.penalty_window, "window of the repeat penalty; -1: everything")->capture_default_str();
  app.add_option("--presence-penalty", s.presence_penalty)->capture_default_str();
  app.add_option("--frequency-penalty", s.frequency_penalty)->capture_default_str();
  app.add_option("--logit-bias", bias, "ID:VALUE, may be repeated");
  app.add_option("--samplers", order, "order of the rules; default " + engine::print_order(engine::default_order()));
  app.add_option("--logprobs", s.logprobs, "with --json: log-probabilities, and this many alternatives");
  app.add_option("--stop", generation.stop, "end the text before this string; may be repeated");
  app.add_flag("--ignore-eos", generation.ignore_eos, "go on past the end token");
  app.add_option("--method", generation.method, "see 'tutti methods'")->capture_default_str();
  app.add_option("-o,--option", method_settings, "key=value for the method, may be repeated");
}

decode::GenerationOptions SamplingOptions::resolve() const {
  decode::GenerationOptions g = generation;
  if (seed >= 0) g.seed = uint64_t(seed);
  if (!order.empty()) g.sampling.order = engine::parse_order(order);
  for (const auto& text : bias) {
    const size_t colon = text.find(':');
    try {
      if (colon == std::string::npos) throw std::invalid_argument(text);
      size_t used = 0;
      const int id = std::stoi(text.substr(0, colon), &used);
      if (used != colon) throw std::invalid_argument(text);
      const float value = std::stof(text.substr(colon + 1), &used);
      if (used != text.size() - colon - 1) throw std::invalid_argument(text);
      g.sampling.logit_bias.emplace_back(id, value);
    } catch (const std::exception&) {
      throw Error(ErrorKind::kUsage, "--logit-bias " + text + ": wants ID:VALUE, for example 42:-1.5");
    }
  }
  for (const auto& text : method_settings) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorKind::kUsage, "--option " + text + ": wants key=value");
    }
    g.method_options[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return g;
}

}  // namespace tutti::cli
