#include "cli/eval_shapes.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/images.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/sampling_options.h"
#include "eval/shapes.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ShapesCommand {
  ModelOptions model;
  SamplingOptions sampling;
  eval::ShapesOptions shapes;
  std::string split = "test", picture = "shown", write;
  std::vector<std::string> kinds;
  bool json = false;
};

std::vector<std::string> question_names() {
  std::vector<std::string> out;
  for (int k = 0; k < vision::kQuestions; ++k) out.push_back(vision::name(vision::Question(k)));
  return out;
}

vision::Question question(const std::string& name) {
  const std::vector<std::string> names = question_names();
  return vision::Question(std::ranges::find(names, name) - names.begin());
}

const std::map<std::string, vision::ShapeSplit> kSplits{
    {"train", vision::ShapeSplit::kTrain},
    {"test", vision::ShapeSplit::kTest},
    {"combinations", vision::ShapeSplit::kCombinations}};
const std::map<std::string, eval::Picture> kPictures{{"shown", eval::Picture::kShown},
                                                     {"zeroed", eval::Picture::kZeroed},
                                                     {"shuffled", eval::Picture::kShuffled}};

double percent(int part, int whole) { return whole > 0 ? 100.0 * part / whole : 0; }

Json json_of(const eval::ShapesResult& r) {
  Json kinds;
  for (int k = 0; k < vision::kQuestions; ++k) {
    const auto& kind = r.kinds[size_t(k)];
    kinds[vision::name(vision::Question(k))] = {{"asked", kind.asked},
                                                {"right", kind.right},
                                                {"forwards", kind.forwards},
                                                {"tokens", kind.tokens}};
  }
  return {{"problems", r.problems}, {"right", r.right},       {"kinds", kinds},
          {"parsed", r.parsed},     {"forwards", r.forwards}, {"tokens", r.tokens},
          {"seconds", r.seconds}};
}

void shapes(const ShapesCommand& o) {
  const decode::GenerationOptions how = o.sampling.resolve();
  eval::ShapesOptions options = o.shapes;
  options.split = kSplits.at(o.split);
  options.picture = kPictures.at(o.picture);
  for (const std::string& kind : o.kinds) options.kinds.push_back(question(kind));
  Session session(o.model);
  const ImageReader reader(session.model().checkpoint());
  ProgressLine line(o.model.quiet);
  const eval::ShapesResult r = eval::run_shapes(
      {session.engine(), session.tokenizer(), reader.network(), reader.config()}, how, options,
      [&](int done) {
        if (line.due())
          line.show("question " + std::to_string(done) + " of " + std::to_string(options.problems));
      });
  line.clear();
  if (!o.write.empty()) {
    std::ofstream out(o.write);
    for (const auto& a : r.answers) {
      out << print_json({{"question", a.question}, {"expected", a.expected}, {"answer", a.text}})
          << '\n';
    }
    if (!out)
      throw Error(ErrorKind::kSystem,
                  o.write + ": cannot be written; check the folder and its permissions");
  }
  if (o.json) {
    std::cout << print_json(json_of(r)) << '\n';
    return;
  }
  std::printf(
      "%d questions, split %s, picture %s: %.1f %% right; %.2f forwards and %.2f tokens an answer, "
      "%.1f answers/s\n",
      r.problems, o.split.c_str(), o.picture.c_str(), percent(r.right, r.problems),
      double(r.forwards) / r.problems, double(r.tokens) / r.problems, r.problems / r.seconds);
  for (int k = 0; k < vision::kQuestions; ++k) {
    const auto& kind = r.kinds[size_t(k)];
    if (kind.asked == 0) continue;
    std::printf("  %-9s %4d asked  %5.1f %% right, %.2f forwards and %.2f tokens\n",
                vision::name(vision::Question(k)).c_str(), kind.asked,
                percent(kind.right, kind.asked), double(kind.forwards) / kind.asked,
                double(kind.tokens) / kind.asked);
  }
  const int described = r.kinds[size_t(vision::Question::kDescribe)].asked;
  if (described > 0)
    std::printf("  %5.1f %% of the descriptions are JSON\n", percent(r.parsed, described));
}

template <class T>
std::vector<std::string> keys(const std::map<std::string, T>& map) {
  std::vector<std::string> out;
  for (const auto& [key, _] : map) out.push_back(key);
  return out;
}

}  // namespace

void add_eval_shapes(CLI::App& eval) {
  auto o = std::make_shared<ShapesCommand>();
  CLI::App* command = eval.add_subcommand(
      "shapes", "questions about rendered shapes, by any method, with and without the picture");
  o->model.add_to(*command);
  o->sampling.generation.max_tokens = 16;
  o->sampling.add_to(*command);
  command->add_option("--problems", o->shapes.problems, "how many")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--first", o->shapes.first,
                   "number of the first; tune on others than you report")
      ->capture_default_str();
  command->add_option("--batch", o->shapes.batch, "answered at the same time")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      ->add_option("--split", o->split,
                   "test: combinations of colour and shape that are trained; combinations: others")
      ->check(CLI::IsMember(keys(kSplits)))
      ->capture_default_str();
  command->add_option("--picture", o->picture, "shown, or the blind baselines")
      ->check(CLI::IsMember(keys(kPictures)))
      ->capture_default_str();
  command
      ->add_option("--kinds", o->kinds,
                   "only questions of these kinds, with commas between them; all otherwise")
      ->delimiter(',')
      ->check(CLI::IsMember(question_names()));
  command->add_option("--write", o->write,
                      "a file of JSON lines {\"question\", \"expected\", \"answer\"}");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { shapes(*o); });
}

}  // namespace tutti::cli
