#include "train/training.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "formats/json_text.h"
#include "train/aten/trainer.h"
#include "train/aten/training.h"

namespace tutti::train {
namespace {

namespace fs = std::filesystem;

// A run goes on only with the recipe it began with; these keys may change.
constexpr const char* kFreeKeys[] = {"name", "steps", "save_every", "evaluation", "device"};

void check_same_recipe(const Recipe& recipe, const std::string& before, const fs::path& place) {
  nlohmann::json now = formats::parse_json(recipe.text, "recipe"),
                 then = formats::parse_json(before, place.string());
  for (const char* key : kFreeKeys) now.erase(key), then.erase(key);
  if (now == then) return;
  const nlohmann::json patch = nlohmann::json::diff(then, now);
  throw Error(ErrorKind::kUsage, place.string() +
                                     ": the run began with another recipe (they differ at " +
                                     patch.front().at("path").get<std::string>() +
                                     "); give the old recipe, or another folder for a new run");
}

nlohmann::ordered_json trace_of(const StepReport& report,
                                const std::vector<LossSequence>& sequences) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const LossSequence& s : sequences) {
    list.push_back({{"tokens", s.sequence.tokens},
                    {"positions", s.sequence.positions},
                    {"predicted", s.predicted},
                    {"targets", s.targets},
                    {"rates", s.rates}});
  }
  return {{"step", report.step},
          {"loss", report.loss},
          {"gradient_norm", report.gradient_norm},
          {"sequences", list}};
}

class Run {
 public:
  explicit Run(const TrainingRequest& request)
      : request_(request),
        recipe_(read_recipe(request.recipe)),
        state_file_(request.folder / "state.safetensors") {
    if (!request.device.empty()) recipe_.device = request.device;
    prepare_folder();
    trainer_ = std::make_unique<Trainer>(recipe_);
    if (request.resume) resume();
    if (!request.trace.empty()) trace_.open(request.trace);
    if (!request.trace.empty() && !trace_) {
      throw Error(ErrorKind::kSystem, request.trace.string() + ": cannot be written");
    }
  }

  TrainingResult to_end() {
    const auto start = std::chrono::steady_clock::now();
    TrainingResult result;
    result.first_step = trainer_->step();
    result.steps = recipe_.steps;
    result.parameters = trainer_->parameters();
    result.trained_parameters = trainer_->trained_parameters();
    result.machine = machine_text(trainer_->device());
    const int64_t last =
        request_.until > 0 ? std::min(request_.until, recipe_.steps) : recipe_.steps;
    if (trainer_->step() == 0 && guesses(recipe_.loss.kind)) evaluate();  // untrained
    while (trainer_->step() < last && !stop_wanted()) one_step();
    result.stopped = trainer_->step() < last;
    save();
    if (trainer_->step() == recipe_.steps && evaluated_ != recipe_.steps) evaluate();
    result.step = trainer_->step();
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  void prepare_folder() {
    std::error_code failed;
    fs::create_directories(request_.folder, failed);
    if (failed) throw Error(ErrorKind::kSystem, request_.folder.string() + ": " + failed.message());
    if (!request_.resume && fs::exists(state_file_)) {
      throw Error(
          ErrorKind::kUsage,
          request_.folder.string() +
              ": holds a run already; go on with --resume, or name another folder with --out");
    }
    write_file_atomically(request_.folder / "recipe.json", recipe_.text);
  }

  void resume() {
    const RunState state = load_state(state_file_);
    check_same_recipe(recipe_, state.recipe, state_file_);
    trainer_->restore(state);
    const std::string now = machine_text(trainer_->device());
    if ((state.machine != now || !trainer_->device().is_cpu()) && request_.on_note) {
      request_.on_note("the run began with " + state.machine + " and goes on with " + now +
                       ": its bits will not be those of an unbroken run");
    }
  }

  bool stop_wanted() const { return request_.stop && request_.stop->load(); }

  void one_step() {
    std::vector<LossSequence> noise;
    const StepReport report = trainer_->train_step(trace_.is_open() ? &noise : nullptr);
    if (trace_.is_open()) trace_ << trace_of(report, noise).dump() << '\n';
    if (request_.on_step) request_.on_step(report);
    const auto due = [&](int64_t every) { return every > 0 && report.step % every == 0; };
    if (due(recipe_.save_every)) save();
    if (due(recipe_.evaluation.every)) evaluate();
  }

  void save() {
    save_state(state_file_, trainer_->state());
    trainer_->save_model(request_.folder / "model");
    trainer_->save_adapter(request_.folder / "adapter");
  }

  void evaluate() {
    evaluated_ = trainer_->step();
    if (recipe_.evaluation.problems == 0) return;
    const EvaluationReport report = trainer_->evaluate();
    if (report.guesses) trainer_->save_adapter(request_.folder / "adapter");  // with its chances
    if (request_.on_evaluation) request_.on_evaluation(report);
  }

  const TrainingRequest& request_;
  Recipe recipe_;
  fs::path state_file_;
  std::unique_ptr<Trainer> trainer_;
  std::ofstream trace_;
  int64_t evaluated_ = -1;  // the step of the last evaluation
};

}  // namespace

TrainingResult run_training(const TrainingRequest& request) {
  at::set_num_threads(request.threads);
  return Run(request).to_end();
}

}  // namespace tutti::train
