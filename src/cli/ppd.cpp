// tutti ppd: how good prompt tokens are, and the trees that pay most with them on this machine.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/run_on.h"
#include "cli/session.h"
#include "decode/ppd/measure.h"
#include "decode/speculative/tree_file.h"
#include "decode/speculative/tree_policy.h"
#include "formats/json_text.h"
#include "train/strict_object.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
namespace ppd = decode::ppd;
namespace speculative = decode::speculative;

// The search takes the third power of it: seconds here, hours at a thousand.
constexpr int kMostRows = 128;

struct PpdCommand {
  ModelOptions model;
  std::string prompt_tokens, texts, out, from;
  int ranks = 10, keys = 256, rows = 48, rounds = 15;
  size_t most_texts = 0;
  bool json = false;
};

// Lines of {"prompt", "answer"}, as training reads them.
std::vector<ppd::MeasuredText> read_texts(const PpdCommand& o, const Session& session) {
  std::istringstream lines(read_file(o.texts));
  std::vector<ppd::MeasuredText> texts;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = o.texts + ", line " + std::to_string(number);
    const nlohmann::json value = formats::parse_json(line, place);
    train::StrictObject fields(value, place);
    ppd::MeasuredText text;
    text.tokens = session.tokenizer().encode(fields.text("prompt", ""));
    text.prompt = int(text.tokens.size());
    const auto answer = session.tokenizer().encode(fields.text("answer"));
    fields.finish();
    text.tokens.insert(text.tokens.end(), answer.begin(), answer.end());
    if (int(text.tokens.size()) > session.model().config().context_length)
      throw Error(ErrorKind::kLimit, place + ": is longer than the model's context");
    if (!text.tokens.empty()) texts.push_back(std::move(text));
    if (o.most_texts > 0 && texts.size() == o.most_texts) break;
  }
  if (texts.empty()) throw Error(ErrorKind::kUsage, o.texts + ": holds no text");
  return texts;
}

ppd::Accuracy accuracy_of(const PpdCommand& o, Session& session, const ppd::PromptTokens& prompts) {
  const auto texts = read_texts(o, session);
  ProgressLine line(o.model.quiet);
  auto accuracy = run_on<ppd::Accuracy>(session, [&](std::shared_ptr<engine::Request> request) {
    return ppd::measure_accuracy(
        session.engine(), request, prompts, texts, o.ranks, [&](size_t done) {
          if (line.due())
            line.show(std::to_string(done) + " of " + std::to_string(texts.size()) + " texts");
        });
  });
  line.clear();
  if (accuracy.anchors == 0)
    throw Error(ErrorKind::kUsage, o.texts + ": no answer is long enough to be predicted in");
  return accuracy;
}

void print_accuracy(const ppd::Accuracy& accuracy) {
  std::printf("prompt token, of %llu places   1st     2nd     3rd    first 10\n",
              static_cast<unsigned long long>(accuracy.anchors));
  const auto table = accuracy.table();
  for (size_t j = 0; j < table.size(); ++j) {
    double sum = 0;
    for (const double share : table[j]) sum += share;
    const auto at = [&](size_t a) { return a < table[j].size() ? table[j][a] : 0.0; };
    std::printf("%12zu                     %.4f  %.4f  %.4f  %.4f\n", j + 1, at(0), at(1), at(2),
                sum);
  }
}

Json json_of(const ppd::Accuracy& accuracy) {
  return {{"anchors", accuracy.anchors}, {"acceptance", accuracy.table()}};
}

void eval_acc(const PpdCommand& o) {
  const auto prompts = ppd::PromptTokens::read(o.prompt_tokens);
  Session session(o.model);
  prompts.check(session.model().config());
  const ppd::Accuracy accuracy = accuracy_of(o, session, prompts);
  if (o.json) {
    std::cout << print_json(json_of(accuracy)) << '\n';
  } else {
    print_accuracy(accuracy);
  }
}

struct Judged {
  double tokens, rows, gain;  // per forward; tokens a second over those of plain decoding
};

Judged judge(const speculative::DynamicTree& trees, const speculative::RowSeconds& seconds) {
  const speculative::SteadyState steady = speculative::steady_state(trees);
  return {steady.tokens, steady.rows, speculative::tokens_per_second(trees, seconds) * seconds(1)};
}

Json judged_json(const std::vector<speculative::DynamicTree>& trees,
                 const speculative::RowSeconds* seconds) {
  Json list = Json::array();
  for (const auto& t : trees) {
    const speculative::SteadyState steady = speculative::steady_state(t);
    list.push_back({{"tokens_per_forward", steady.tokens},
                    {"rows_per_forward", steady.rows},
                    {"occupancy", steady.occupancy}});
    if (seconds) list.back()["gain"] = judge(t, *seconds).gain;
  }
  return list;
}

void print_trees(const std::vector<speculative::DynamicTree>& trees,
                 const speculative::RowSeconds* seconds) {
  std::printf("rows/forward  tokens/forward%s\n", seconds ? "  of plain decoding's tokens/s" : "");
  for (const auto& t : trees) {
    const speculative::SteadyState steady = speculative::steady_state(t);
    std::printf("%12.1f  %14.3f", steady.rows, steady.tokens);
    if (seconds) std::printf("  %.3f", judge(t, *seconds).gain);
    std::printf("\n");
  }
}

// Rebuilds the trees of a file from its acceptance.
void build_tree(const PpdCommand& o) {
  speculative::TreeFile file = speculative::read_tree_file(o.from, "ppd");
  file.trees = speculative::trees_by_price(file.acceptance, o.rows);
  if (file.trees.empty())
    throw Error(ErrorKind::kUsage, o.from + ": with this acceptance no tree ever pays");
  write_file_atomically(o.out.empty() ? o.from : o.out, speculative::print_tree_file(file));
  if (o.json) {
    std::cout << print_json(Json{{"trees", judged_json(file.trees, nullptr)}}) << '\n';
  } else {
    print_trees(file.trees, nullptr);
  }
}

// The acceptance: measured on texts, or that of the folder's own trees.
speculative::AcceptanceTable acceptance_of(const PpdCommand& o, Session& session,
                                           const ppd::PromptTokens& prompts) {
  if (!o.texts.empty()) return accuracy_of(o, session, prompts).table();
  const auto file = std::filesystem::path(o.prompt_tokens) / "tree.json";
  if (!std::filesystem::exists(file))
    throw Error(ErrorKind::kNotFound, file.string() + ": is not there; give --texts");
  auto acceptance = speculative::read_tree_file(file, "ppd").acceptance;
  if (int(acceptance.size()) != prompts.count())
    throw Error(ErrorKind::kUsage, file.string() + ": is of other prompt tokens; give --texts");
  return acceptance;
}

ppd::RowTable measured_rows(const PpdCommand& o, Session& session) {
  if (o.rounds == 0) return {};
  std::vector<int> rows;
  for (const int r : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128}) {
    if (r <= o.rows) rows.push_back(r);
  }
  return run_on<ppd::RowTable>(session, [&](std::shared_ptr<engine::Request> request) {
    return ppd::measure_rows(session.engine(), request, o.keys, rows, o.rounds);
  });
}

void tune(const PpdCommand& o) {
  const std::filesystem::path folder = o.prompt_tokens;
  const std::filesystem::path out =
      o.out.empty() ? folder / "tree.json" : std::filesystem::path(o.out);
  const auto prompts = ppd::PromptTokens::read(folder);
  Session session(o.model);
  prompts.check(session.model().config());
  speculative::TreeFile file;
  file.method = "ppd";
  file.acceptance = acceptance_of(o, session, prompts);
  file.seconds = measured_rows(o, session);
  file.keys = o.rounds > 0 ? o.keys : 0;
  file.trees = speculative::trees_by_price(file.acceptance, o.rows);
  speculative::RowSeconds seconds;
  Json best;
  if (!file.seconds.empty()) {
    seconds = ppd::rising(file.seconds);
    // The best of all for the costs as they were measured, where these prices missed it.
    double most = 1;
    for (const auto& t : file.trees) most = std::max(most, judge(t, seconds).gain);
    const auto trees = speculative::best_trees(file.acceptance, seconds, {o.rows, o.ranks});
    if (judge(trees, seconds).gain > most) file.trees.push_back(trees);
    best = judged_json({trees}, &seconds).front();
  }
  if (file.trees.empty())
    throw Error(ErrorKind::kUsage, folder.string() + ": with this acceptance no tree ever pays");
  write_file_atomically(out, speculative::print_tree_file(file));
  const auto* costs = file.seconds.empty() ? nullptr : &seconds;
  if (o.json) {
    std::cout << print_json(Json{{"acceptance", file.acceptance},
                                 {"keys", file.keys},
                                 {"seconds", file.seconds},
                                 {"best", best},
                                 {"trees", judged_json(file.trees, costs)}})
              << '\n';
    return;
  }
  for (const auto& [r, s] : file.seconds) std::printf("%4d rows  %8.3f ms\n", r, s * 1e3);
  print_trees(file.trees, costs);
  if (costs) {
    std::printf("best: %.1f rows, %.3f tokens a forward, %.3f of plain decoding's tokens/s\n",
                best["rows_per_forward"].get<double>(), best["tokens_per_forward"].get<double>(),
                best["gain"].get<double>());
  }
}

void add_measured(CLI::App& command, PpdCommand& o, bool texts_required) {
  o.model.add_to(command);
  command.add_option("--prompt-tokens", o.prompt_tokens, "folder of the prompt tokens")->required();
  auto* texts = command.add_option(
      "--texts", o.texts, R"(texts that were not trained on: lines of {"prompt", "answer"})");
  if (texts_required) texts->required();
  command.add_option("--most-texts", o.most_texts, "the first of them; 0: all");
  command.add_option("--ranks", o.ranks, "candidates of a prompt token")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_flag("--json", o.json, "one JSON document on stdout");
}

}  // namespace

void add_ppd(CLI::App& app) {
  CLI::App* group = app.add_subcommand(
      "ppd", "prompt tokens (method ppd): their accuracy, and trees for this machine");
  group->require_subcommand(1);
  auto a = std::make_shared<PpdCommand>();
  CLI::App* accuracy = group->add_subcommand("eval-acc", "how often their candidates are right");
  add_measured(*accuracy, *a, true);
  accuracy->callback([a] { eval_acc(*a); });

  auto t = std::make_shared<PpdCommand>();
  CLI::App* tuned = group->add_subcommand(
      "tune", "measures accuracy and what rows cost here, and writes the trees that pay most");
  add_measured(*tuned, *t, false);
  tuned->add_option("--keys", t->keys, "slots that a row sees in the measurement")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  tuned->add_option("--rows", t->rows, "of a forward, at most")
      ->check(CLI::Range(2, kMostRows))
      ->capture_default_str();
  tuned
      ->add_option("--rounds", t->rounds,
                   "forwards of each size; 0: rows are not measured, trees for all prices alone")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  tuned->add_option("-o,--out", t->out,
                    "the file of trees; tree.json of the folder when not given");
  tuned->callback([t] { tune(*t); });

  auto b = std::make_shared<PpdCommand>();
  CLI::App* built = group->add_subcommand("build-tree", "trees from the acceptance in a file");
  built->add_option("--from", b->from, "a file of trees")->required();
  built->add_option("-o,--out", b->out, "the file that is written; the same when not given");
  built->add_option("--rows", b->rows, "of a forward, at most")
      ->check(CLI::Range(2, kMostRows))
      ->capture_default_str();
  built->add_flag("--json", b->json, "one JSON document on stdout");
  built->callback([b] { build_tree(*b); });
}

}  // namespace tutti::cli
