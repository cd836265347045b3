// tutti train-vision: a recipe to a small Dimple, phase by phase.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/torch_library.h"
#include "vision/vision_training.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct TrainVisionOptions {
  std::string recipe, out;
  int threads = 1;
  bool json = false, quiet = false;
};

void train_vision(const TrainVisionOptions& o) {
  const auto run =
      reinterpret_cast<vision::TrainVisionFunction>(torch_function(vision::kTrainVisionFunction));
  vision::VisionTrainingRequest request;
  request.recipe = o.recipe;
  request.folder = o.out;
  request.threads = o.threads;
  ProgressLine line(o.quiet);
  std::string log;
  vision::VisionStep last;
  double seconds = 0;
  request.on_step = [&](const vision::VisionStep& r) {
    log += print_json({{"phase", r.phase},
                       {"step", r.step},
                       {"loss", r.loss},
                       {"gradient_norm", r.gradient_norm},
                       {"seconds", r.seconds}}) +
           "\n";
    last = r;
    seconds += r.seconds;
    if (r.step % 50 == 0 || r.step == r.steps)
      write_file_atomically(std::filesystem::path(o.out) / "log.jsonl", log);
    if (!line.due()) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s: step %lld of %lld  loss %.4f  %.2f s a step",
                  r.phase.c_str(), static_cast<long long>(r.step), static_cast<long long>(r.steps),
                  r.loss, r.seconds);
    line.show(text);
  };
  int64_t parameters = 0;
  run(request, parameters);
  line.clear();
  if (o.json) {
    std::cout << print_json({{"folder", o.out},
                             {"parameters", parameters},
                             {"loss", last.loss},
                             {"seconds", seconds}})
              << '\n';
  } else {
    std::printf("%lld parameters; last loss %.4f after %.0f s; a folder per phase in %s\n",
                static_cast<long long>(parameters), last.loss, seconds, o.out.c_str());
  }
}

}  // namespace

void add_train_vision(CLI::App& app) {
  auto o = std::make_shared<TrainVisionOptions>();
  CLI::App* command = app.add_subcommand(
      "train-vision", "train a small model that reads images, from a recipe of phases");
  command->add_option("recipe", o->recipe, "a JSON file (docs/systems/22-dimple.md)")->required();
  command->add_option("-o,--out", o->out, "folder for a model of each phase")->required();
  command->add_option("-t,--threads", o->threads, "compute threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_flag("-q,--quiet", o->quiet, "no progress on stderr");
  command->callback([o] { train_vision(*o); });
}

}  // namespace tutti::cli
