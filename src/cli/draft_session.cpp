#include "cli/draft_session.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>

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

}  // namespace

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
  const auto setting = [&](const char* flag, const char* option, const char* help,
                           const char* variable) {
    named(app.add_option_function<std::string>(
              flag,
              [this, option](const std::string& value) { settings.emplace_back(option, value); },
              help),
          variable);
  };
  setting("--draft-max,--draft,--draft-n,--num-speculative-tokens", "draft_max",
          "speculation: tokens drafted one after the other at most", "TUTTI_DRAFT_MAX");
  setting("--draft-min,--draft-n-min", "draft_min", "speculation: shorter drafts are left",
          "TUTTI_DRAFT_MIN");
  setting("--draft-p-min", "draft_p_min", "speculation: a draft of less probability ends the draft",
          "TUTTI_DRAFT_P_MIN");
}

void DraftModelOptions::resolve(decode::GenerationOptions& generation) const {
  if (!model.empty() && generation.method == "auto") generation.method = "draft";
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
