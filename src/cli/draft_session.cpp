#include "cli/draft_session.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>

#include "base/error.h"
#include "decode/method.h"

namespace tutti::cli {

namespace {

// The cores that this process may use.
std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// The last `own` of the cores that the target has now go to the draft model.
std::shared_ptr<engine::CoreSplit> split_cores(int threads, int own) {
  std::vector<int> cores = usable_cores();
  if (int(cores.size()) > threads) cores.resize(size_t(threads));
  if (own >= int(cores.size())) {
    throw Error(ErrorKind::kUsage,
                "--draft-cores " + std::to_string(own) + ": leaves the model none of its " +
                    std::to_string(cores.size()) + " cores; give fewer, or 0 to share them");
  }
  const auto first = cores.end() - own;
  return std::make_shared<engine::CoreSplit>(std::vector<std::vector<int>>{
      std::vector<int>(cores.begin(), first), std::vector<int>(first, cores.end())});
}

// What may be said of drafts by a flag of its own: an option of the methods that draft.
struct DraftSetting {
  const char* flags;
  const char* option;
  const char* variable;
  const char* help;
  int least, most;
  bool whole;
  std::string flag() const {
    const std::string_view all = flags;
    return std::string(all.substr(0, all.find(',')));
  }
};

std::span<const DraftSetting> draft_settings() {
  static constexpr DraftSetting kSettings[] = {
      {"--draft-max,--draft,--draft-n,--num-speculative-tokens", "draft_max", "TUTTI_DRAFT_MAX",
       "speculation: tokens drafted one after the other at most, 1 to 256", 1, 256, true},
      {"--draft-min,--draft-n-min", "draft_min", "TUTTI_DRAFT_MIN",
       "speculation: shorter drafts are left, 0 to 256", 0, 256, true},
      {"--draft-p-min", "draft_p_min", "TUTTI_DRAFT_P_MIN",
       "speculation: a draft of less probability ends the draft, 0 to 1", 0, 1, false},
  };
  return kSettings;
}

double value_of(const DraftSetting& setting, const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= setting.least && value <= setting.most) ||
      (setting.whole && value != std::floor(value))) {
    throw Error(ErrorKind::kUsage, setting.flag() + " " + text + ": wants a " +
                                       (setting.whole ? "whole number" : "number") + " from " +
                                       std::to_string(setting.least) + " to " +
                                       std::to_string(setting.most));
  }
  return value;
}

bool has(const decode::Method& method, std::string_view option) {
  return std::ranges::find(method.options, option, &decode::MethodOption::name) !=
         method.options.end();
}

}  // namespace

void check_draft_settings(const std::map<std::string, std::string>& method_options) {
  std::map<std::string_view, double> values;
  for (const DraftSetting& setting : draft_settings()) {
    const auto given = method_options.find(setting.option);
    if (given != method_options.end()) values[setting.option] = value_of(setting, given->second);
  }
  constexpr double kMost = 16;  // what methods have that are not told
  const double most = values.contains("draft_max") ? values["draft_max"] : kMost;
  if (values.contains("draft_min") && values["draft_min"] > most) {
    throw Error(ErrorKind::kUsage, "--draft-min " + method_options.at("draft_min") +
                                       ": is more than --draft-max, " + std::to_string(int(most)) +
                                       "; give less, or a greater --draft-max");
  }
}

std::string draft_settings_without_use(const std::map<std::string, std::string>& method_options,
                                       const std::string& model, std::string_view method) {
  std::string notes;
  for (const DraftSetting& setting : draft_settings()) {
    if (!method_options.contains(setting.option) ||
        has(decode::find_method(method), setting.option))
      continue;
    std::string others;
    for (const decode::Method& other : decode::methods()) {
      if (has(other, setting.option))
        others += (others.empty() ? "" : ", ") + std::string(other.name);
    }
    notes += "note: " + setting.flag() + ": model " + model + " writes by " + std::string(method) +
             ", which has no such option; it holds for requests by " + others + "\n";
  }
  return notes;
}

void DraftModelOptions::add_to(CLI::App& app) {
  app.add_option(kModelFlags, model,
                 "a smaller model of the same vocabulary that drafts (also -md): --method draft");
  add_ways_to(app, false);
}

void DraftModelOptions::add_ways_to(CLI::App& app, bool variables) {
  const auto named = [variables](CLI::Option* option, const char* variable) {
    if (variables) option->envname(variable);
  };
  named(app.add_option("--draft-cores", cores,
                       "cores of the draft model's own; 0: it shares the model's, turn by turn")
            ->check(CLI::Range(0, 1024))
            ->capture_default_str(),
        "TUTTI_DRAFT_CORES");
  for (const DraftSetting& setting : draft_settings()) {
    const auto keep = [this, option = setting.option](const std::string& value) {
      settings.emplace_back(option, value);
    };
    named(app.add_option_function<std::string>(setting.flags, keep, setting.help),
          setting.variable);
  }
}

void DraftModelOptions::resolve(decode::GenerationOptions& generation) const {
  if (!model.empty() && generation.method == "auto") generation.method = "draft";
  check_draft_settings({settings.begin(), settings.end()});
  for (const auto& [option, value] : settings) {
    const auto named = [&, &o = option](const decode::MethodOption& m) { return m.name == o; };
    if (generation.method == "auto" ||
        std::ranges::none_of(decode::find_method(generation.method).options, named)) {
      throw Error(ErrorKind::kUsage, "method " + generation.method + ": has no option " + option +
                                         "; name a method that drafts, or a --draft-model");
    }
    generation.method_options[option] = value;
  }
  if (cores > 0 && model.empty())
    throw Error(ErrorKind::kUsage, "--draft-cores: needs a --draft-model");
}

DraftSession::DraftSession(const DraftModelOptions& options, Session& target,
                           engine::EngineOptions engine_options) {
  ModelOptions model = target.options();
  model.model = options.model;
  const bool own_cores = options.cores > 0;
  session_ =
      std::make_unique<Session>(model, engine_options, Session::Input::kText,
                                own_cores ? nullptr : target.pool(), &target.model().checkpoint());
  std::shared_ptr<decode::speculative::DraftCores> cores;
  if (own_cores) {
    const auto split = split_cores(target.pool()->threads(), options.cores);
    target.engine().use_cores(split, 0);
    session_->engine().use_cores(split, 1);
    cores = std::make_shared<decode::speculative::DraftCores>(split, 0, 1);
  } else {
    target.engine().host(session_->shared_engine());
  }
  model_ = std::make_shared<const decode::speculative::DraftModel>(
      session_->shared_engine(),
      session_->has_tokenizer() ? session_->tokenizer() : target.tokenizer(), target.tokenizer(),
      std::move(cores));
  if (own_cores) thread_.emplace(session_->shared_engine());
}

}  // namespace tutti::cli
