// tutti score: the likelihood of any part of a text given the rest, under a two-stream model.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "cli/blank_text.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/run_on.h"
#include "cli/session.h"
#include "cli/text_input.h"
#include "decode/anyorder/infill.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
namespace anyorder = decode::anyorder;

struct ScoreCommand {
  ModelOptions model;
  std::string text, file, task, order = "lattice";
  uint64_t seed = 0;
  bool json = false, logits = false;
};

void score(const ScoreCommand& o) {
  const bool ids = !o.task.empty();
  if (int(ids) + int(!o.text.empty()) + int(!o.file.empty()) != 1) {
    throw Error(ErrorKind::kUsage, "score: give one of --text, --file and --task");
  }
  if (o.logits && !o.json)
    throw Error(ErrorKind::kUsage, "score: --logits goes into the document of --json; give both");
  Session session(o.model, {}, ids ? Session::Input::kIds : Session::Input::kText);
  anyorder::InfillTask task =
      ids ? parse_task(read_input(o.task), o.task)
          : task_of(parse_parts(o.text.empty() ? read_input(o.file) : o.text, "text"),
                    session.tokenizer());
  const bool stated = ids && !task.order.empty();
  if (task.order.empty()) {  // nothing is marked: all of it
    task.order.resize(task.tokens.size());
    std::iota(task.order.begin(), task.order.end(), 0);
  }
  if (!stated) task.order = order_by_name(o.order, task.order, o.seed);
  const auto result = run_on<anyorder::Score>(session, [&](std::shared_ptr<engine::Request> r) {
    return anyorder::score(session.engine(), std::move(r), task, o.logits);
  });
  const double each = result.log_probability / double(result.filled.size());
  if (o.json) {
    Json tokens = Json::array();
    for (size_t i = 0; i < result.filled.size(); ++i) {
      const auto& f = result.filled[i];
      Json one{
          {"position", f.position}, {"token", f.token}, {"log_probability", f.log_probability}};
      if (o.logits) one["logits"] = result.logits[i];
      tokens.push_back(std::move(one));
    }
    std::cout << print_json(Json{{"log_probability", result.log_probability},
                                 {"log_probability_per_token", each},
                                 {"scored", tokens}})
              << '\n';
    return;
  }
  std::printf("log p %.6f nats of %zu tokens, %.6f a token\n", result.log_probability,
              result.filled.size(), each);
  for (const auto& f : result.filled) {
    const std::string name = ids ? std::to_string(f.token)
                                 : print_json(Json(session.tokenizer().vocabulary()[f.token].text));
    std::printf("%6d  %10.5f  %s\n", f.position, f.log_probability, name.c_str());
  }
}

}  // namespace

void add_score(CLI::App& app) {
  auto o = std::make_shared<ScoreCommand>();
  CLI::App* command = app.add_subcommand(
      "score",
      "-log p of a text, or of parts of it given the rest, with a two-stream model (XLNet)");
  o->model.add_to(*command);
  command->add_option("-p,--text", o->text,
                      "the text; [[=words]] marks what is scored, else all of it");
  command->add_option("-f,--file", o->file, "the text from a file; -: standard input");
  command->add_option(
      "--task", o->task,
      R"(a file {"tokens": [1, 2, 3], "order": [1]}: scores the positions of "order" in this order)");
  command
      ->add_option("--order", o->order,
                   "in which what is scored was decided; lattice is from left to right")
      ->check(CLI::IsMember({"lattice", "reversed", "random"}))
      ->capture_default_str();
  command->add_option("-s,--seed", o->seed, "of a random order")->capture_default_str();
  command->add_flag("--logits", o->logits,
                    "with --json: the whole row of logits of each scored position");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { score(*o); });
}

}  // namespace tutti::cli
