#include "cli/eval_likelihood.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/session.h"
#include "cli/text_input.h"
#include "eval/likelihood.h"
#include "formats/json_text.h"
#include "train/problems.h"
#include "train/strict_object.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct LikelihoodCommand {
  ModelOptions model;
  eval::LikelihoodOptions how;
  std::string file;
  std::string task = "sudoku";
  int problems = 64;
  uint64_t first = 0;
  int end_tokens = 0;
  bool json = false;
};

std::vector<train::Problem> read_lines(const std::string& file) {
  std::istringstream lines(read_input(file));
  std::vector<train::Problem> out;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place =
        (file == "-" ? "standard input" : file) + ", line " + std::to_string(number);
    const nlohmann::json value = formats::parse_json(line, place);
    train::StrictObject o(value, place);
    train::Problem& p = out.emplace_back();
    p.prompt = o.text("prompt", "");
    p.answer = o.text("answer");
    o.finish();
  }
  if (out.empty()) {
    throw Error(ErrorKind::kUsage,
                file + ": has no line; give {\"prompt\": …, \"answer\": …} a line");
  }
  return out;
}

std::vector<train::Problem> problems_of(const LikelihoodCommand& o) {
  if (!o.file.empty()) return read_lines(o.file);
  const auto task = train::make_problems(o.task);
  std::vector<train::Problem> out;
  for (int i = 0; i < o.problems; ++i) {
    out.push_back(train::problem_at(*task, o.how.seed, true, o.first + uint64_t(i)));
  }
  return out;
}

eval::MaskedText text_of(const Session& session, const train::Problem& p, int end_tokens) {
  eval::MaskedText text;
  text.prompt = session.encode_raw(p.prompt);
  text.answer = session.tokenizer().encode(p.answer);
  const int32_t end = session.tokenizer().eos();
  if (end_tokens > 0 && end < 0) {
    throw Error(ErrorKind::kUsage, "--end-tokens: the tokenizer has no end token; leave it out");
  }
  text.answer.insert(text.answer.end(), size_t(end_tokens), end);
  return text;
}

Json json_of(const LikelihoodCommand& o, const eval::Likelihood& r, bool causal) {
  Json answers = Json::array(), ratios = Json::array();
  for (const auto& a : r.answers) {
    answers.push_back({{"nll", a.nll}, {"standard_error", a.standard_error}, {"tokens", a.tokens}});
  }
  for (const auto& t : r.ratios) {
    ratios.push_back(
        {{"ratio", t.ratio}, {"nll_per_masked_token", t.per_token()}, {"masked", t.masked}});
  }
  return {{"model", o.model.model},
          {"texts", o.file.empty() ? o.task : o.file},
          {"causal", causal},
          {"samples", o.how.exact || causal ? Json() : Json(o.how.samples)},
          {"strata", o.how.strata},
          {"exact", o.how.exact},
          {"seed", o.how.seed},
          {"nll", r.nll()},
          {"standard_error", r.standard_error()},
          {"tokens", r.tokens()},
          {"nll_per_token", r.nll() / double(r.tokens())},
          {"answers", answers},
          {"ratios", ratios}};
}

void print(const LikelihoodCommand& o, const eval::Likelihood& r, bool causal) {
  const double answers = double(r.answers.size()), tokens = double(r.tokens());
  std::printf("%zu answers of %s, %lld tokens; ", r.answers.size(),
              o.file.empty() ? o.task.c_str() : o.file.c_str(), static_cast<long long>(r.tokens()));
  if (causal) {
    std::printf("read from left to right\n");
  } else if (o.how.exact) {
    std::printf("every mask\n");
  } else {
    std::printf("%d masks each, in rounds of %d\n", o.how.samples, o.how.strata);
  }
  std::printf(
      "-log p %s %.4f ± %.4f nats an answer, %.5f ± %.5f nats a token (one standard error)\n",
      causal ? "is" : "at most", r.nll() / answers, r.standard_error() / answers, r.nll() / tokens,
      r.standard_error() / tokens);
  if (r.ratios.empty()) return;
  std::printf("\n%10s  %10s  %s\n", "mask ratio", "masked", "nats a masked token");
  for (const auto& t : r.ratios) {
    std::printf("%10.1f  %10lld  %.5f\n", t.ratio, static_cast<long long>(t.masked), t.per_token());
  }
}

void likelihood(const LikelihoodCommand& o) {
  const std::vector<train::Problem> problems = problems_of(o);
  Session session(o.model);
  std::vector<eval::MaskedText> texts;
  for (const train::Problem& p : problems) texts.push_back(text_of(session, p, o.end_tokens));
  ProgressLine line(o.model.quiet);
  const eval::Likelihood result =
      eval::likelihood(session.engine(), texts, o.how, [&](int done, int total) {
        if (line.due())
          line.show("answer " + std::to_string(done) + " of " + std::to_string(total));
      });
  line.clear();
  const bool causal = session.engine().model().config().attention == models::AttentionKind::kCausal;
  if (o.json) {
    std::cout << print_json(json_of(o, result, causal)) << '\n';
  } else {
    print(o, result, causal);
  }
}

}  // namespace

void add_eval_likelihood(CLI::App& eval) {
  auto o = std::make_shared<LikelihoodCommand>();
  CLI::App* command =
      eval.add_subcommand("likelihood",
                          "-log p of answers under a model that fills in masked tokens, and its "
                          "loss by mask ratio; or under a causal one");
  o->model.add_to(*command);
  CLI::Option* file = command->add_option("-f,--file", o->file,
                                          "JSON lines {\"prompt\", \"answer\"}; -: standard input");
  command
      ->add_option("--task", o->task,
                   "held-out problems instead of a file: " + train::problem_list())
      ->excludes(file)
      ->capture_default_str();
  command->add_option("--problems", o->problems, "how many")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--first", o->first, "number of the first problem")->capture_default_str();
  command
      ->add_option("--end-tokens", o->end_tokens,
                   "end tokens behind each answer, masked and scored with it")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--samples", o->how.samples,
                   "masks per answer (per block, where attention has blocks)")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command
      ->add_option("--strata", o->how.strata,
                   "masks of a round, their sizes spread evenly; one forward")
      ->check(CLI::Range(1, 1 << 12))
      ->capture_default_str();
  command->add_flag("--exact", o->how.exact,
                    "every mask, for at most " + std::to_string(eval::kMostExact) + " tokens");
  command
      ->add_option("--ratio-masks", o->how.ratio_masks,
                   "masks per answer and ratio of the table; 0: no table")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("-s,--seed", o->how.seed, "of masks and problems")->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { likelihood(*o); });
}

}  // namespace tutti::cli
