// tutti train: a recipe to a model.

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/pool.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/torch_library.h"
#include "cli/train_log.h"
#include "train/recipe.h"

namespace tutti::cli {
namespace {

struct TrainOptions {
  std::string recipe, out, trace, device;
  int64_t until = 0;
  int threads = 0;
  bool resume = false, json = false, quiet = false;
};

// Set by Ctrl-C: the step that runs is finished and saved. A second one ends the program at once.
std::atomic<bool> interrupted{false};

class Interrupts {
 public:
  Interrupts() {
    interrupted = false;
    struct sigaction action{};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = SA_RESETHAND;
    sigaction(SIGINT, &action, &before_);
  }
  ~Interrupts() { sigaction(SIGINT, &before_, nullptr); }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

 private:
  struct sigaction before_{};
};

std::string duration(double seconds) {
  char text[64];
  const auto s = int64_t(seconds + 0.5);
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%lld h %02lld min", static_cast<long long>(s / 3600),
                  static_cast<long long>(s / 60 % 60));
  } else {
    std::snprintf(text, sizeof text, "%lld min %02lld s", static_cast<long long>(s / 60),
                  static_cast<long long>(s % 60));
  }
  return text;
}

// What the terminal and the log are told.
class Narrator {
 public:
  Narrator(const TrainOptions& o, TrainLog& log) : options_(o), log_(log), line_(o.quiet) {}

  void step(const train::StepReport& r) {
    log_.add(r);
    last_ = r;
    tokens_ += r.tokens;
    seconds_ += r.seconds;
    if (!line_.due()) return;
    char text[160];
    std::snprintf(text, sizeof text, "step %lld of %lld  loss %.4f  %.0f tokens/s  %s left",
                  static_cast<long long>(r.step), static_cast<long long>(r.steps), r.loss,
                  double(tokens_) / seconds_,
                  duration(double(r.steps - r.step) * r.seconds).c_str());
    line_.show(text);
  }
  void evaluation(const train::EvaluationReport& r) {
    log_.add(r);
    evaluation_ = r;
    line_.clear();
    if (options_.json || options_.quiet) return;
    if (r.guesses) {
      std::printf("step %lld: loss %.4f, first guesses right by offset:",
                  static_cast<long long>(r.step), last_.loss);
      for (const auto& share : r.guesses->accuracy) std::printf(" %.3f", share[0]);
      std::printf("\n");
      std::fflush(stdout);
      return;
    }
    std::printf("step %lld: loss %.4f, solved %d of %d held-out problems (%.1f %%)\n",
                static_cast<long long>(r.step), last_.loss, r.solved, r.problems,
                100.0 * r.solved / r.problems);
    std::fflush(stdout);
  }
  void note(const std::string& text) {
    line_.clear();
    if (!options_.quiet) std::fprintf(stderr, "tutti: note: %s\n", text.c_str());
  }
  void finish() { line_.clear(); }

  const train::StepReport& last() const { return last_; }
  const std::optional<train::EvaluationReport>& last_evaluation() const { return evaluation_; }
  double tokens_per_second() const { return seconds_ > 0 ? double(tokens_) / seconds_ : 0; }

 private:
  const TrainOptions& options_;
  TrainLog& log_;
  ProgressLine line_;
  train::StepReport last_;
  std::optional<train::EvaluationReport> evaluation_;
  int64_t tokens_ = 0;
  double seconds_ = 0;
};

// The part of the run's folder that holds what was trained.
const char* kept_in(const train::Recipe& recipe) {
  return train::guesses(recipe.loss.kind) ? "adapter" : "model";
}

nlohmann::ordered_json json_of(const train::Recipe& recipe, const std::filesystem::path& folder,
                               const train::TrainingResult& result, const Narrator& n) {
  nlohmann::ordered_json j{
      {"recipe", recipe.name},
      {"folder", folder.string()},
      {"model", (folder / kept_in(recipe)).string()},
      {"parameters", result.parameters},
      {"trained_parameters", result.trained_parameters},
      {"first_step", result.first_step},
      {"step", result.step},
      {"steps", result.steps},
      {"stopped", result.stopped},
      {"loss", result.step > result.first_step ? nlohmann::ordered_json(n.last().loss) : nullptr},
      {"tokens_per_second", n.tokens_per_second()},
      {"seconds", result.seconds},
      {"machine", result.machine}};
  if (const auto& e = n.last_evaluation(); e && e->guesses) {
    j["evaluation"] = {{"step", e->step},
                       {"anchors", e->guesses->anchors},
                       {"accuracy", e->guesses->accuracy},
                       {"seconds", e->seconds}};
  } else if (e) {
    j["evaluation"] = {{"step", e->step},      {"problems", e->problems},
                       {"solved", e->solved},  {"seconds", e->seconds},
                       {"prompt", e->prompt},  {"expected", e->expected},
                       {"written", e->written}};
  }
  return j;
}

void train_command(const TrainOptions& o) {
  const train::Recipe recipe =
      train::read_recipe(o.recipe);  // before anything is opened or written
  train::TrainingRequest request;
  request.recipe = o.recipe;
  request.folder =
      o.out.empty() ? std::filesystem::path("runs") / recipe.name : std::filesystem::path(o.out);
  request.resume = o.resume;
  request.until = o.until;
  request.threads = o.threads > 0 ? o.threads : available_cores();
  request.trace = o.trace;
  request.device = o.device;
  request.stop = &interrupted;
  if (o.resume && !std::filesystem::exists(request.folder / "state.safetensors")) {
    throw Error(ErrorKind::kNotFound,
                request.folder.string() + ": holds no run to go on with; leave out --resume");
  }
  const auto run = reinterpret_cast<train::TrainFunction>(torch_function(train::kTrainFunction));
  std::unique_ptr<TrainLog> log;
  std::unique_ptr<Narrator> narrator;
  const auto open_log = [&] {  // not before the run has accepted its folder
    if (log) return;
    log = std::make_unique<TrainLog>(request.folder / "log.jsonl", o.resume);
    narrator = std::make_unique<Narrator>(o, *log);
  };
  request.on_step = [&](const auto& r) { open_log(), narrator->step(r); };
  request.on_evaluation = [&](const auto& r) { open_log(), narrator->evaluation(r); };
  request.on_note = [&](const auto& text) { open_log(), narrator->note(text); };
  train::TrainingResult result;
  {
    const Interrupts interrupts;
    run(request, result);
  }
  open_log();
  narrator->finish();
  log->plot(recipe.name);
  if (o.json) {
    std::cout << print_json(json_of(recipe, request.folder, result, *narrator)) << '\n';
  } else {
    std::printf("step %lld of %lld, %s, %.0f tokens/s: %s\n", static_cast<long long>(result.step),
                static_cast<long long>(result.steps), duration(result.seconds).c_str(),
                narrator->tokens_per_second(), (request.folder / kept_in(recipe)).c_str());
  }
  if (result.stopped && interrupted) {
    throw Error(ErrorKind::kCancelled, "train: stopped after step " + std::to_string(result.step) +
                                           " and saved; go on with --resume");
  }
}

}  // namespace

void add_train(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "train a model from a recipe");
  auto o = std::make_shared<TrainOptions>();
  command->add_option("recipe", o->recipe, "the recipe (JSON; docs/training.md)")->required();
  command->add_option(
      "-o,--out", o->out,
      "folder of the run: model/, state, log; runs/NAME of the recipe when not given");
  command->add_flag("--resume", o->resume, "go on from the folder's state");
  command
      ->add_option("--until", o->until,
                   "stop after this step and save; the schedule stays the recipe's")
      ->check(CLI::PositiveNumber);
  command->add_option("-t,--threads", o->threads, "threads (0: all cores)")
      ->capture_default_str()
      ->envname("TUTTI_THREADS");
  command
      ->add_option("--device", o->device,
                   "cpu, cuda, or cuda:1 for the second GPU, instead of the recipe's")
      ->check(train::is_device_option)
      ->envname("TUTTI_DEVICE");
  command->add_option("--trace", o->trace,
                      "write every step's noise and loss to a file, as JSON lines");
  command->add_flag("--json", o->json, "one document on stdout");
  command->add_flag("-q,--quiet", o->quiet, "no progress");
  command->callback([o] { train_command(*o); });
}

}  // namespace tutti::cli
