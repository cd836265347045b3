#include "cli/eval_tasks.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/sampling_options.h"
#include "cli/session.h"
#include "decode/method.h"
#include "eval/plot.h"
#include "eval/tasks.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

// A way to answer: a point of a curve.
struct Trial {
  std::string curve;  // policy and cache: its points make one area
  std::string label;
  std::string method;
  std::map<std::string, std::string> options;
};

struct TasksOptions {
  ModelOptions model;
  SamplingOptions sampling;
  eval::TaskOptions task;
  std::string name = "sudoku";
  std::vector<int> batches{1};
  std::vector<std::string> trials;
  bool matrix = false;
  bool json = false;
  std::string svg;
  std::string write;  // a file for the answers
  bool solved_only = false;
  bool verify = false;
};

// "freedave policy=static draft_steps=8": a method, then its options.
Trial parse_trial(const std::string& text) {
  std::istringstream in(text);
  Trial trial;
  trial.label = text;
  if (!(in >> trial.method)) throw Error(ErrorKind::kUsage, "--try: is empty; give METHOD [OPTION=VALUE …]");
  if (trial.method != "auto") decode::find_method(trial.method);
  trial.curve = trial.method;
  for (std::string setting; in >> setting;) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorKind::kUsage, "--try " + text + ": '" + setting + "' is no OPTION=VALUE");
    }
    const std::string option = setting.substr(0, equals), value = setting.substr(equals + 1);
    trial.options[option] = value;
    if (option == "policy" || option == "cache") trial.curve += " " + value;
  }
  return trial;
}

// Every policy, its parameter swept, with every cache that the model can have.
std::vector<Trial> matrix(const models::Config& config, int tokens) {
  const bool blocks = config.attention == models::AttentionKind::kBlockCausal;
  const std::vector<std::string> caches =
      blocks ? std::vector<std::string>{"blocks"}
             : std::vector<std::string>{"none", "prefix", "dual", "vicinity", "delayed"};
  struct Sweep {
    std::string method, policy, option;
    std::vector<std::string> values;
  };
  const std::vector<Sweep> sweeps{
      {"diffusion", "static", "", {""}},
      {"diffusion", "schedule", "steps", {std::to_string(tokens), std::to_string(tokens / 2), std::to_string(tokens / 4)}},
      {"diffusion", "threshold", "threshold", {"0.99", "0.95", "0.9", "0.8", "0.7", "0.6", "0.5"}},
      {"diffusion", "factor", "factor", {"0.1", "0.5", "1", "2", "4"}},
      {"diffusion", "entropy", "entropy", {"0.05", "0.1", "0.3", "0.5", "1"}},
      {"diffusion", "entropy-bounded", "entropy_bound", {"0.1", "0.35", "0.7", "1.5"}},
      {"diffusion", "hierarchy", "threshold", {"0.95", "0.9", "0.8", "0.7"}},
      {"diffusion", "confident", "threshold", {"0.99", "0.95", "0.9", "0.8"}},
      {"diffusion", "credit", "threshold", {"0.99", "0.95", "0.9", "0.8", "0.7"}},
      {"freedave", "static", "draft_steps", {"2", "4", "8"}},
      {"freedave", "threshold", "draft_steps", {"2", "4"}},
  };
  std::vector<Trial> trials;
  for (const std::string& cache : caches) {
    for (const Sweep& s : sweeps) {
      if (s.method == "freedave" && cache == "delayed") continue;  // what it sees depends on the forwards before
      if (blocks && s.policy == "schedule") continue;              // its steps are shared by blocks of a few positions
      for (const std::string& value : s.values) {
        Trial t;
        t.method = s.method;
        t.curve = s.method + " " + s.policy + " " + cache;
        t.label = t.curve + (s.option.empty() ? "" : " " + s.option + "=" + value);
        t.options["policy"] = s.policy;
        if (!s.option.empty()) t.options[s.option] = value;
        if (!blocks) {
          t.options["cache"] = cache;
          t.options["block_length"] = s.policy == "schedule" ? "0" : "32";
        }
        if (cache == "delayed") t.options["refresh_every"] = "8";
        trials.push_back(std::move(t));
      }
    }
  }
  return trials;
}

// How many answers differ from those of diffusion with the same policy.
int differences(Session& session, const train::ProblemSource& task, decode::GenerationOptions how,
                const eval::TaskOptions& options, const eval::TaskResult& fast) {
  how.method = "diffusion";
  for (const char* own : {"draft_steps", "verify", "eager"}) how.method_options.erase(own);
  if (!how.method_options.contains("policy")) how.method_options["policy"] = "static";
  const eval::TaskResult slow = eval::run_task(session.engine(), session.tokenizer(), task, how, options, {});
  int different = 0;
  for (size_t i = 0; i < slow.answers.size(); ++i) different += slow.answers[i].text != fast.answers[i].text;
  return different;
}

void check(const TasksOptions& o, const decode::GenerationOptions& base) {
  const auto refuse = [](const char* what) { throw Error(ErrorKind::kUsage, what); };
  const bool named = !o.trials.empty() || o.matrix;
  if (base.n != 1) refuse("eval tasks: --samples is not 1; an answer counts once");
  if (base.max_tokens < 1) refuse("eval tasks: -n must be at least 1: masked models write an answer of a fixed length");
  if (named && (base.method != "auto" || !base.method_options.empty())) {
    refuse("eval tasks: --method and -o do not go with --try or --matrix; write them into the trials");
  }
  if (!o.write.empty() && (o.trials.size() > 1 || o.matrix || o.batches.size() > 1)) {
    refuse("eval tasks: --write keeps the answers of one trial at one batch size; leave the others out");
  }
}

void tasks(const TasksOptions& o) {
  const decode::GenerationOptions base = o.sampling.resolve();
  check(o, base);
  const int tokens = base.max_tokens;
  const auto task = train::make_problems(o.name);
  std::vector<Trial> trials;
  for (const std::string& text : o.trials) trials.push_back(parse_trial(text));
  Session session(o.model);
  if (trials.empty() && !o.matrix) {
    trials.push_back({base.method, base.method, base.method, base.method_options});
  }
  if (o.matrix) {
    const auto all = matrix(session.model().config(), tokens);
    trials.insert(trials.end(), all.begin(), all.end());
  }
  ProgressLine line(o.model.quiet);
  Json rows = Json::array();
  std::map<std::string, std::vector<std::pair<double, double>>> curves;
  if (!o.json) {
    std::printf("%d %s problems of %s, at most %d tokens each; %s\n", o.task.problems,
                o.task.trained ? "trainable" : "held-out", o.name.c_str(), tokens,
                session.model().config().name.empty() ? o.model.model.c_str() : session.model().config().name.c_str());
    std::printf("%5s  %8s  %8s  %8s  %9s  %9s  %9s  %s\n", "batch", "solved", "forwards", "tokens/f", "tokens/s",
                "s/answer", "rows/f", "method");
  }
  int different_in_all = 0;
  std::ofstream out;
  if (!o.write.empty()) {
    out.open(o.write);
    if (!out) throw Error(ErrorKind::kSystem, o.write + ": cannot be written; check the folder and its permissions");
  }
  for (const int batch : o.batches) {
    for (const Trial& trial : trials) {
      decode::GenerationOptions how = base;
      how.method = trial.method;
      how.method_options = trial.options;
      eval::TaskOptions options = o.task;
      options.batch = batch;
      options.tokens = tokens;
      const eval::TaskResult r =
          eval::run_task(session.engine(), session.tokenizer(), *task, how, options, [&](int done) {
            if (line.due()) {
              line.show(trial.label + ", batch " + std::to_string(batch) + ": " + std::to_string(done) + " of " +
                        std::to_string(options.problems));
            }
          });
      line.clear();
      for (const auto& a : r.answers) {
        if (out.is_open() && (a.solved || !o.solved_only)) {
          out << print_json({{"prompt", a.prompt}, {"answer", a.text}}) << '\n';
        }
      }
      std::optional<int> different;
      if (o.verify && trial.method == "freedave") {
        different = differences(session, *task, how, options, r);
        different_in_all += *different;
      }
      const double each = double(r.forwards) / r.problems;
      if (batch == o.batches.front()) curves[trial.curve].emplace_back(r.tokens_per_forward(), r.accuracy());
      if (o.json) {
        rows.push_back({{"label", trial.label},
                        {"method", trial.method},
                        {"options", trial.options},
                        {"batch", batch},
                        {"problems", r.problems},
                        {"solved", r.solved},
                        {"accuracy", r.accuracy()},
                        {"forwards_per_answer", each},
                        {"tokens_per_forward", r.tokens_per_forward()},
                        {"tok_s", r.tokens_per_second()},
                        {"seconds_per_answer", r.seconds / r.problems},
                        {"ticks", r.ticks},
                        {"rows", r.rows},
                        {"proposed", r.proposed},
                        {"accepted", r.accepted}});
        if (different) rows.back()["different"] = *different;
      } else {
        std::printf("%5d  %6.2f %%  %8.2f  %8.2f  %9.1f  %9.5f  %9.1f  %s%s\n", batch, r.accuracy(), each,
                    r.tokens_per_forward(), r.tokens_per_second(), r.seconds / r.problems,
                    r.ticks ? double(r.rows) / double(r.ticks) : 0.0, trial.label.c_str(),
                    different ? (" [" + std::to_string(*different) + " differ]").c_str() : "");
        std::fflush(stdout);
      }
    }
  }
  if (out.is_open() && !out.flush()) throw Error(ErrorKind::kSystem, o.write + ": cannot be written; is the disk full?");
  Json areas = Json::object();
  for (const auto& [curve, points] : curves) areas[curve] = eval::accuracy_under_parallelism(points);
  if (o.json) {
    std::cout << print_json({{"model", o.model.model},
                             {"task", o.name},
                             {"tokens", tokens},
                             {"trials", rows},
                             {"accuracy_under_parallelism", areas}})
              << '\n';
  } else if (curves.size() > 1 || curves.begin()->second.size() > 1) {
    std::printf("\n%10s  accuracy under parallelism\n", "AUP");
    for (const auto& [curve, area] : areas.items()) std::printf("%10.1f  %s\n", area.get<double>(), curve.c_str());
  }
  if (!o.svg.empty()) {
    eval::Plot plot(o.name + ": accuracy by tokens per forward", "tokens per forward", "solved, %");
    plot.set_log_x(false);
    for (auto& [curve, points] : curves) {
      std::sort(points.begin(), points.end());
      plot.add_line(curve, points);
    }
    write_file_atomically(o.svg, plot.svg());
  }
  if (different_in_all > 0) {
    throw Error(ErrorKind::kSystem, "eval tasks: " + std::to_string(different_in_all) +
                                        " answers of freedave are not those of the policy; please report this");
  }
}

}  // namespace

void add_eval_tasks(CLI::App& eval) {
  auto o = std::make_shared<TasksOptions>();
  CLI::App* command = eval.add_subcommand("tasks", "solve held-out problems with checkable answers, by any methods");
  o->model.add_to(*command);
  o->sampling.generation.max_tokens = 64;
  o->sampling.add_to(*command);
  command->add_option("--task", o->name, train::problem_list())->capture_default_str();
  command->add_option("--problems", o->task.problems, "how many")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command->add_option("--first", o->task.first, "number of the first; tune on others than you report")
      ->capture_default_str();
  command->add_flag("--trained", o->task.trained, "problems that may be trained on, instead of held-out ones");
  command->add_option("--write", o->write, "a file of JSON lines {\"prompt\", \"answer\"}, as 'tutti train' reads them");
  command->add_flag("--solved-only", o->solved_only, "leave wrong answers out of that file");
  command->add_option("--batch", o->batches, "answered at the same time, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--try", o->trials, "METHOD [OPTION=VALUE …]; may be repeated: a row of the table each");
  command->add_flag("--matrix", o->matrix, "every policy, swept, with every cache");
  command->add_flag("--verify-lossless", o->verify, "compare every answer of freedave with that of its policy");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot: accuracy by tokens per forward");
  command->callback([o] { tasks(*o); });
}

}  // namespace tutti::cli
