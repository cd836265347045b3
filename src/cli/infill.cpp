// tutti infill: blanks of a text, filled in any order by a two-stream model.
#include "decode/anyorder/infill.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "cli/blank_text.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/session.h"
#include "cli/text_input.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
namespace anyorder = decode::anyorder;

struct InfillCommand {
  ModelOptions model;
  std::string text, file, task, method = "assd", order = "lattice", accept = "match",
                                draft = "model";
  anyorder::InfillOptions how;
  bool uncached = false, seeded = false, json = false;
  int samples = 1;
};

const std::map<std::string, anyorder::Fill> kFills = {{"any-order", anyorder::Fill::kSequential},
                                                      {"assd", anyorder::Fill::kAssd},
                                                      {"parallel", anyorder::Fill::kParallel}};

void run(engine::Engine& engine,
         const std::vector<std::pair<anyorder::InfillTask, anyorder::InfillOptions>>& jobs,
         std::vector<anyorder::Infilled>& out) {
  std::exception_ptr first;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const auto request = engine.new_request();
    engine.spawn(
        request,
        [&, i, request]() -> Task<void> {
          out[i] = co_await anyorder::infill(engine, request, jobs[i].first, jobs[i].second);
        },
        [&first](std::exception_ptr e) {
          if (e && !first) first = e;
        });
  }
  engine.run();
  if (first) std::rethrow_exception(first);
}

Json json_of(const anyorder::Infilled& r, const text::Tokenizer* tokenizer, uint64_t seed) {
  Json filled = Json::array();
  for (const auto& f : r.filled) {
    filled.push_back({{"position", f.position},
                      {"token", f.token},
                      {"log_probability", f.log_probability},
                      {"drafted", f.drafted}});
  }
  Json j{{"seed", seed},           {"tokens", r.tokens}, {"log_probability", r.log_probability},
         {"forwards", r.forwards}, {"rounds", r.rounds}, {"proposed", r.proposed},
         {"accepted", r.accepted}, {"filled", filled}};
  if (tokenizer) j["text"] = tokenizer->decode(r.tokens);
  return j;
}

void infill(InfillCommand o) {
  const bool ids = !o.task.empty();
  if (int(ids) + int(!o.text.empty()) + int(!o.file.empty()) != 1) {
    throw Error(ErrorKind::kUsage, "infill: give one of --text, --file and --task");
  }
  o.how.fill = kFills.at(o.method);
  o.how.accept = o.accept == "match" ? anyorder::Accept::kMatch : anyorder::Accept::kReject;
  o.how.draft = o.draft == "model" ? anyorder::DraftBy::kModel : anyorder::DraftBy::kNgram;
  o.how.cached = !o.uncached;
  if (!o.seeded) o.how.seed = (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
  Session session(o.model, {}, ids ? Session::Input::kIds : Session::Input::kText);
  anyorder::InfillTask task =
      ids ? parse_task(read_input(o.task), o.task)
          : task_of(parse_parts(o.text.empty() ? read_input(o.file) : o.text, "text"),
                    session.tokenizer());
  // A task's own order stands.
  if (!ids || task.order.empty()) {
    task.order = order_by_name(o.order, anyorder::lattice_order(task.tokens), o.how.seed);
  }
  if (task.order.empty())
    throw Error(ErrorKind::kUsage, "infill: the text has no blank; write [[mask:N]] where one is");

  std::vector<std::pair<anyorder::InfillTask, anyorder::InfillOptions>> jobs;
  for (int i = 0; i < o.samples; ++i) {
    jobs.emplace_back(task, o.how);
    jobs.back().second.seed = o.how.seed + uint64_t(i);
  }
  std::vector<anyorder::Infilled> results(jobs.size());
  const auto start = std::chrono::steady_clock::now();
  run(session.engine(), jobs, results);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const text::Tokenizer* tokenizer = ids ? nullptr : &session.tokenizer();
  Json all = Json::array();
  for (size_t i = 0; i < results.size(); ++i) {
    const anyorder::Infilled& r = results[i];
    if (o.json) {
      all.push_back(json_of(r, tokenizer, jobs[i].second.seed));
      continue;
    }
    if (tokenizer) {
      std::cout << tokenizer->decode(r.tokens) << '\n';
    } else {
      std::cout << print_json(Json(r.tokens)) << '\n';
    }
    if (o.model.quiet) continue;
    std::cout.flush();
    std::fprintf(stderr, "%zu tokens in %llu forwards, %llu of %llu drafts stood, log p %.4f\n",
                 r.filled.size(), static_cast<unsigned long long>(r.forwards),
                 static_cast<unsigned long long>(r.accepted),
                 static_cast<unsigned long long>(r.proposed), r.log_probability);
  }
  if (o.json) {
    std::cout << print_json(Json{{"method", o.method}, {"seconds", seconds}, {"texts", all}})
              << '\n';
  }
}

}  // namespace

void add_infill(CLI::App& app) {
  auto o = std::make_shared<InfillCommand>();
  CLI::App* command = app.add_subcommand(
      "infill", "fills blanks of a text in any order, with a two-stream model (XLNet)");
  o->model.add_to(*command);
  command->add_option("-p,--text", o->text, "the text; [[mask:5]] stands for five blank tokens");
  command->add_option("-f,--file", o->file, "the text from a file; -: standard input");
  command->add_option(
      "--task", o->task,
      R"(a file {"tokens": [1, null, 3], "order": [1]}, null being a blank; -: standard input)");
  command
      ->add_option("--method", o->method,
                   "any-order: a token a forward; assd: drafts that are verified, the same text "
                   "(accept=match) or law; "
                   "parallel: drafts that are not, as masked diffusion writes; not the model's law")
      ->check(CLI::IsMember({"any-order", "assd", "parallel"}))
      ->capture_default_str();
  command
      ->add_option("--order", o->order,
                   "in which blanks are decided; lattice is from left to right")
      ->check(CLI::IsMember({"lattice", "reversed", "random"}))
      ->capture_default_str();
  command->add_option("-k,--width", o->how.width, "tokens drafted a round")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--accept", o->accept,
                   "of assd: match (the text of any-order) or reject (its law)")
      ->check(CLI::IsMember({"match", "reject"}))
      ->capture_default_str();
  command->add_option("--draft", o->draft, "of assd: model, or ngram: counts of decided neighbours")
      ->check(CLI::IsMember({"model", "ngram"}))
      ->capture_default_str();
  command->add_flag("--bonus", o->how.bonus, "of assd: verify one position more than was drafted");
  command
      ->add_option("--r-atol", o->how.slack,
                   "of accept=reject: added to the acceptance ratio. Lossy: above 0 the law is not "
                   "the model's")
      ->capture_default_str();
  command->add_option("--draft-temperature", o->how.draft_temperature,
                      "of drafts but a round's first; default: --temp");
  o->how.sampling.temperature = 1.0f;
  command
      ->add_option("--temp,--temperature", o->how.sampling.temperature, "0: the likeliest tokens")
      ->capture_default_str();
  command->add_option("--top-k", o->how.sampling.top_k, "0: off")->capture_default_str();
  command->add_option("--top-p", o->how.sampling.top_p, "1: off")->capture_default_str();
  CLI::Option* seed = command->add_option(
      "-s,--seed", o->how.seed, "of the draws (sample i has seed + i) and of a random order");
  command->add_option("-n,--samples", o->samples, "fillings of the same text")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--uncached", o->uncached,
                    "compute all decided tokens anew at each forward, as the reference does");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o, seed] {
    o->seeded = seed->count() > 0;
    infill(*o);
  });
}

}  // namespace tutti::cli
