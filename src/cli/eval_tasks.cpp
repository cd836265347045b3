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
#include "cli/text_input.h"
#include "decode/draft_counts.h"
#include "decode/method.h"
#include "eval/plot.h"
#include "eval/tasks.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostTrials = 10000;

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
  std::string file, check = "exact";
  bool chat = false, run_code = false;
  std::vector<int> batches{1};
  std::vector<std::string> trials;
  bool matrix = false;
  bool json = false;
  std::string svg;
  std::string write;  // a file for the answers
  bool solved_only = false;
  bool verify = false;
  bool front = false;
  bool trained_or_task = false;  // one of the two was given
};

// The values of "{0.7,0.8,0.9}"; of anything else itself.
std::vector<std::string> swept(const std::string& value) {
  if (value.size() < 2 || value.front() != '{' || value.back() != '}') return {value};
  std::vector<std::string> values;
  std::istringstream in(value.substr(1, value.size() - 2));
  for (std::string one; std::getline(in, one, ',');) values.push_back(one);
  if (values.empty())
    throw Error(ErrorKind::kUsage, "--try: {} holds no value; give some, apart by commas");
  return values;
}

// "freedave policy=static draft_steps={4,8}": a method, then its options; a trial for every
// combination of values.
std::vector<Trial> parse_trials(const std::string& text) {
  std::istringstream in(text);
  Trial trial;
  if (!(in >> trial.method))
    throw Error(ErrorKind::kUsage, "--try: is empty; give METHOD [OPTION=VALUE …]");
  if (trial.method != "auto") decode::find_method(trial.method);
  trial.curve = trial.label = trial.method;
  std::vector<Trial> trials{trial};
  for (std::string setting; in >> setting;) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorKind::kUsage, "--try " + text + ": '" + setting + "' is no OPTION=VALUE");
    }
    const std::string option = setting.substr(0, equals);
    std::vector<Trial> longer;
    for (const Trial& t : trials) {
      for (const std::string& value : swept(setting.substr(equals + 1))) {
        Trial& next = longer.emplace_back(t);
        next.options[option] = value;
        next.label += " " + option + "=" + value;
        if (option == "policy" || option == "cache") next.curve += " " + value;
      }
    }
    trials = std::move(longer);
    if (trials.size() > kMostTrials) {
      throw Error(ErrorKind::kUsage, "--try " + text + ": more than " +
                                         std::to_string(kMostTrials) +
                                         " combinations; sweep fewer values at a time");
    }
  }
  return trials;
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
      {"diffusion",
       "schedule",
       "steps",
       {std::to_string(tokens), std::to_string(tokens / 2), std::to_string(tokens / 4)}},
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
      if (s.method == "freedave" && cache == "delayed")
        continue;  // what it sees depends on the forwards before
      if (blocks && s.policy == "schedule")
        continue;  // its steps are shared by blocks of a few positions
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
int differences(Session& session, const std::vector<eval::TaskItem>& items,
                decode::GenerationOptions how, const eval::TaskOptions& options,
                const eval::TaskResult& fast) {
  how.method = "diffusion";
  for (const char* own : {"draft_steps", "verify", "eager"}) how.method_options.erase(own);
  if (!how.method_options.contains("policy")) how.method_options["policy"] = "static";
  const eval::TaskResult slow =
      eval::run_task(session.engine(), session.tokenizer(), items, how, options, {});
  int different = 0;
  for (size_t i = 0; i < slow.answers.size(); ++i)
    different += slow.answers[i].text != fast.answers[i].text;
  return different;
}

// Of a trial with drafts: forwards by how many of theirs stood.
struct Chains {
  int batch;
  std::string label;
  std::vector<uint64_t> forwards;  // [k]: the first k stood and no more
};

void print_chains(const std::vector<Chains>& trials) {
  if (trials.empty()) return;
  std::printf("\n%5s  %6s  forwards by how many of their drafts stood: none, one, two …\n", "batch",
              "mean");
  for (const Chains& t : trials) {
    double stood = 0, forwards = 0;
    for (size_t k = 0; k < t.forwards.size(); ++k) {
      stood += double(k) * double(t.forwards[k]);
      forwards += double(t.forwards[k]);
    }
    std::printf("%5d  %6.2f  %s:", t.batch, stood / forwards, t.label.c_str());
    for (const uint64_t n : t.forwards) std::printf(" %llu", static_cast<unsigned long long>(n));
    std::printf("\n");
  }
}

Json front_json(const std::vector<Trial>& trials,
                const std::vector<std::pair<double, double>>& points,
                const std::vector<size_t>& front) {
  Json rows = Json::array();
  for (const size_t i : front) {
    rows.push_back({{"label", trials[i].label},
                    {"options", trials[i].options},
                    {"forwards_per_answer", points[i].first},
                    {"accuracy", points[i].second}});
  }
  return rows;
}

std::vector<eval::TaskItem> items_of_file(const Session& session, const TasksOptions& o) {
  const auto encode = [&](const std::string& prompt) {
    if (!o.chat) return session.encode_raw(prompt);
    return session.encode_chat(Json::array({{{"role", "user"}, {"content", prompt}}}));
  };
  const auto named = std::ranges::find(eval::kChecks, o.check, &eval::NamedCheck::name);
  return eval::items_of_lines(read_input(o.file), o.file == "-" ? "standard input" : o.file,
                              named->check, encode, o.task);
}

void check(const TasksOptions& o, const decode::GenerationOptions& base) {
  const auto refuse = [](const char* what) { throw Error(ErrorKind::kUsage, what); };
  const bool named = !o.trials.empty() || o.matrix;
  if (base.n != 1) refuse("eval tasks: --samples is not 1; an answer counts once");
  if (base.max_tokens < 1)
    refuse("eval tasks: -n must be at least 1: masked models write an answer of a fixed length");
  if (named && (base.method != "auto" || !base.method_options.empty())) {
    refuse(
        "eval tasks: --method and -o do not go with --try or --matrix; write them into the trials");
  }
  if (o.file.empty() && (o.check != "exact" || o.chat || o.run_code)) {
    refuse("eval tasks: --check, --chat and --run-code are for problems of a --file");
  }
  if (!o.file.empty() && o.trained_or_task) {
    refuse(
        "eval tasks: --task and --trained are for generated problems; leave them out beside "
        "--file");
  }
  if (o.check == "python" && !o.run_code) {
    refuse(
        "eval tasks: --check python runs what the model writes, without network and with bounds on "
        "time, memory and "
        "output, but with your own rights to files (as root: nobody's); give --run-code if you "
        "want that");
  }
  if (!o.write.empty() && (o.trials.size() > 1 || o.matrix || o.batches.size() > 1)) {
    refuse(
        "eval tasks: --write keeps the answers of one trial at one batch size; leave the others "
        "out");
  }
}

void tasks(const TasksOptions& o) {
  const decode::GenerationOptions base = o.sampling.resolve();
  check(o, base);
  const int tokens = base.max_tokens;
  std::vector<Trial> trials;
  for (const std::string& text : o.trials) {
    std::vector<Trial> swept = parse_trials(text);
    std::ranges::move(swept, std::back_inserter(trials));
  }
  Session session(o.model);
  const auto task = o.file.empty() ? train::make_problems(o.name) : nullptr;
  const std::vector<eval::TaskItem> items =
      task ? eval::generated_items(*task, session.tokenizer(), o.task) : items_of_file(session, o);
  const std::string what =
      task ? (o.task.trained ? "trainable problems of " : "held-out problems of ") + o.name
           : "problems of " + o.file + ", checked by " + o.check;
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
  std::vector<std::pair<double, double>>
      points;  // forwards and accuracy of the trials at the first batch size
  if (!o.json) {
    std::printf("%zu %s, at most %d tokens each; %s\n", items.size(), what.c_str(), tokens,
                session.model().config().name.empty() ? o.model.model.c_str()
                                                      : session.model().config().name.c_str());
    std::printf("%5s  %8s  %8s  %8s  %9s  %9s  %9s  %6s  %s\n", "batch", "solved", "forwards",
                "tokens/f", "tokens/s", "s/answer", "rows/f", "waited", "method");
  }
  std::vector<Chains> drafted;
  int different_in_all = 0;
  std::ofstream out;
  if (!o.write.empty()) {
    out.open(o.write);
    if (!out)
      throw Error(ErrorKind::kSystem,
                  o.write + ": cannot be written; check the folder and its permissions");
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
          eval::run_task(session.engine(), session.tokenizer(), items, how, options, [&](int done) {
            if (line.due()) {
              line.show(trial.label + ", batch " + std::to_string(batch) + ": " +
                        std::to_string(done) + " of " + std::to_string(items.size()));
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
        different = differences(session, items, how, options, r);
        different_in_all += *different;
      }
      const double each = double(r.forwards) / r.problems;
      const std::vector<uint64_t> chains = decode::chain_lengths(r.drafted_at, r.accepted_at);
      if (!chains.empty()) drafted.push_back({batch, trial.label, chains});
      if (batch == o.batches.front()) {
        curves[trial.curve].emplace_back(r.tokens_per_forward(), r.accuracy());
        points.emplace_back(each, r.accuracy());
      }
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
                        {"accepted", r.accepted},
                        {"mean_wait", r.mean_wait()},
                        {"waits", r.waits}});
        if (!chains.empty()) rows.back()["chains"] = chains;
        if (different) rows.back()["different"] = *different;
      } else {
        std::printf("%5d  %6.2f %%  %8.2f  %8.2f  %9.1f  %9.5f  %9.1f  %6.2f  %s%s\n", batch,
                    r.accuracy(), each, r.tokens_per_forward(), r.tokens_per_second(),
                    r.seconds / r.problems, r.ticks ? double(r.rows) / double(r.ticks) : 0.0,
                    r.mean_wait(), trial.label.c_str(),
                    different ? (" [" + std::to_string(*different) + " differ]").c_str() : "");
        std::fflush(stdout);
      }
    }
  }
  if (out.is_open() && !out.flush())
    throw Error(ErrorKind::kSystem, o.write + ": cannot be written; is the disk full?");
  const std::vector<size_t> front = o.front ? eval::pareto_front(points) : std::vector<size_t>();
  Json areas = Json::object();
  for (const auto& [curve, points] : curves)
    areas[curve] = eval::accuracy_under_parallelism(points);
  if (o.json) {
    std::cout << print_json({{"model", o.model.model},
                             {"task", task ? o.name : o.file},
                             {"tokens", tokens},
                             {"trials", rows},
                             {"accuracy_under_parallelism", areas},
                             {"pareto_front", front_json(trials, points, front)}})
              << '\n';
  } else if (curves.size() > 1 || curves.begin()->second.size() > 1) {
    std::printf("\n%10s  accuracy under parallelism\n", "AUP");
    for (const auto& [curve, area] : areas.items())
      std::printf("%10.1f  %s\n", area.get<double>(), curve.c_str());
  }
  if (!o.json) print_chains(drafted);
  if (!o.json && o.front) {
    std::printf("\n%8s  %8s  not beaten in both\n", "solved", "forwards");
    for (const size_t i : front) {
      std::printf("%6.2f %%  %8.2f  %s\n", points[i].second, points[i].first,
                  trials[i].label.c_str());
    }
  }
  if (!o.svg.empty()) {
    eval::Plot plot((task ? o.name : o.file) + ": accuracy by tokens per forward",
                    "tokens per forward", "solved, %");
    plot.set_log_x(false);
    for (auto& [curve, points] : curves) {
      std::sort(points.begin(), points.end());
      plot.add_line(curve, points);
    }
    write_file_atomically(o.svg, plot.svg());
  }
  if (different_in_all > 0) {
    throw Error(ErrorKind::kSystem,
                "eval tasks: " + std::to_string(different_in_all) +
                    " answers of freedave are not those of the policy; please report this");
  }
}

}  // namespace

void add_eval_tasks(CLI::App& eval) {
  auto o = std::make_shared<TasksOptions>();
  CLI::App* command = eval.add_subcommand(
      "tasks", "solve held-out problems with checkable answers, by any methods");
  o->model.add_to(*command);
  o->sampling.generation.max_tokens = 64;
  o->sampling.add_to(*command);
  const CLI::Option* task =
      command->add_option("--task", o->name, train::problem_list())->capture_default_str();
  command->add_option(
      "--file", o->file,
      "problems of a file of JSON lines instead ('-': standard input): {\"prompt\", \"answer\"}, "
      "GSM8K's "
      "{\"question\", \"answer\"}, HumanEval's {\"prompt\", \"test\", \"entry_point\"}");
  std::vector<std::string> checks;
  for (const eval::NamedCheck& c : eval::kChecks) checks.emplace_back(c.name);
  command
      ->add_option("--check", o->check,
                   "of a file's answers: exact: the text; number: its last number, or the one in "
                   "\\boxed{}; python: the "
                   "function passes its test")
      ->check(CLI::IsMember(checks))
      ->capture_default_str();
  command->add_flag("--chat", o->chat,
                    "a file's prompts are a user's words in the model's chat template");
  command->add_flag("--run-code", o->run_code, "let --check python run what the model writes");
  command->add_option("--problems", o->task.problems, "how many")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--first", o->task.first, "number of the first; tune on others than you report")
      ->capture_default_str();
  const CLI::Option* trained = command->add_flag(
      "--trained", o->task.trained, "problems that may be trained on, instead of held-out ones");
  command->add_option("--write", o->write,
                      "a file of JSON lines {\"prompt\", \"answer\"}, as 'tutti train' reads them");
  command->add_flag("--solved-only", o->solved_only, "leave wrong answers out of that file");
  command->add_option("--batch", o->batches, "answered at the same time, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--try", o->trials,
                      "METHOD [OPTION=VALUE …]; may be repeated: a row of the table each. "
                      "OPTION={A,B}: one for each value");
  command->add_flag("--front", o->front,
                    "at the end, the trials that no other one beats in accuracy and forwards");
  command->add_flag("--matrix", o->matrix, "every policy, swept, with every cache");
  command->add_flag("--verify-lossless", o->verify,
                    "compare every answer of freedave with that of its policy");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot: accuracy by tokens per forward");
  command->callback([o, task, trained] {
    o->trained_or_task = task->count() > 0 || trained->count() > 0;
    tasks(*o);
  });
}

}  // namespace tutti::cli
