// tutti eval: perplexity of a text, look-up in passages, and raw logits for comparison with other
// implementations.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/context_options.h"
#include "cli/eval_likelihood.h"
#include "cli/eval_shapes.h"
#include "cli/eval_tasks.h"
#include "cli/images.h"
#include "cli/progress_line.h"
#include "cli/session.h"
#include "eval/passages.h"
#include "eval/perplexity.h"
#include "eval/run_program.h"

namespace tutti::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string file;
  std::string ids;
  std::vector<std::string> images;
  std::string out;
  int window = 512;
  int tokens = 0;
  int first_window = 0;
  int windows = 0;
  bool json = false;
};

std::vector<int32_t> text_tokens(const Session& session, const EvalOptions& o) {
  std::vector<int32_t> tokens = session.tokenizer().encode(read_file(o.file));
  if (o.tokens > 0 && tokens.size() > size_t(o.tokens)) tokens.resize(size_t(o.tokens));
  return tokens;
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    try {
      size_t used = 0;
      ids.push_back(std::stoi(part, &used));
      if (part.find_first_not_of(' ', used) != std::string::npos) throw std::invalid_argument(part);
    } catch (const std::exception&) {
      throw Error(ErrorKind::kUsage,
                  "--ids: '" + part + "' is not a token id; give numbers separated by commas");
    }
  }
  return ids;
}

void perplexity(const EvalOptions& o) {
  Session session(o.model);
  eval::PerplexityOptions options;
  options.window = o.window;
  if (session.tokenizer().add_bos_default()) options.bos = session.tokenizer().bos();
  const std::vector<int32_t> tokens = text_tokens(session, o);
  ProgressLine line(o.model.quiet);
  const auto result = eval::perplexity(session.engine(), tokens, options, [&](int done, int total) {
    if (line.due()) line.show("window " + std::to_string(done) + " of " + std::to_string(total));
  });
  line.clear();
  if (o.json) {
    std::cout << nlohmann::ordered_json{{"nll", result.nll},
                                        {"tokens", result.tokens},
                                        {"ppl", result.ppl()}}
                     .dump()
              << '\n';
  } else {
    std::printf("perplexity %.4f over %lld tokens (%.5f nats a token), windows of %d\n",
                result.ppl(), static_cast<long long>(result.tokens),
                result.nll / double(result.tokens), o.window);
  }
}

// The rows of a window whose image tokens stand for the cells of these images.
std::shared_ptr<const decode::PromptRows> image_rows(Session& session,
                                                     const std::vector<int32_t>& window,
                                                     const std::vector<std::string>& files) {
  const ImageReader reader(session.model().checkpoint());
  std::shared_ptr<const decode::PromptRows> rows;
  engine::Engine& engine = session.engine();
  const auto request = engine.new_request();
  eval::run_to_end(engine, request, [&]() -> Task<void> {
    rows = co_await reader.rows(engine, request, window, reader.read(files));
  });
  return rows;
}

void logits(const EvalOptions& o) {
  Session session(o.model, {}, o.ids.empty() ? Session::Input::kText : Session::Input::kIds);
  // --ids are taken as they are. A window of a model that reads BOS begins with it, in place of the
  // window's last token, which predicts nothing inside it: each of the window's tokens is predicted
  // by one row.
  std::vector<std::vector<int32_t>> windows;
  if (!o.ids.empty()) {
    windows.push_back(parse_ids(o.ids));
  } else {
    const std::vector<int32_t> tokens = text_tokens(session, o);
    for (size_t first = 0; first < tokens.size(); first += size_t(o.window)) {
      std::vector<int32_t> window;
      const bool bos = session.tokenizer().add_bos_default();
      if (bos) window.push_back(session.tokenizer().bos());
      const size_t last = std::min(tokens.size(), first + size_t(o.window)) - size_t(bos);
      window.insert(window.end(), tokens.begin() + long(first), tokens.begin() + long(last));
      windows.push_back(std::move(window));
    }
  }
  const int first = o.first_window;
  const int last =
      o.windows > 0 ? std::min(int(windows.size()), first + o.windows) : int(windows.size());
  if (first < 0 || first >= int(windows.size())) {
    throw Error(ErrorKind::kUsage, "--first-window " + std::to_string(first) + ": the text has " +
                                       std::to_string(windows.size()) + " windows");
  }
  std::shared_ptr<const decode::PromptRows> rows;
  if (!o.images.empty()) rows = image_rows(session, windows[size_t(first)], o.images);
  nlohmann::ordered_json ids = nlohmann::ordered_json::array();
  write_file_atomically(o.out, [&](const Sink& sink) {
    for (int w = first; w < last; ++w) {
      ids.push_back(windows[size_t(w)]);
      eval::window_logits(
          session.engine(), windows[size_t(w)],
          [&](int, std::span<const float> row) { sink(std::as_bytes(row)); }, rows.get());
    }
  });
  if (o.json) {
    std::cout << nlohmann::ordered_json{{"vocab", session.model().config().vocab},
                                        {"windows", std::move(ids)}}
                     .dump()
              << '\n';
  }
}

struct PassageOptions {
  ModelOptions model;
  std::vector<int> passages{2, 4, 8, 16};
  int items = 40;
  int facts = 4;
  int first = 1000;
  float temperature = 0.9f, scale = 0.9f;
  bool json = false;
};

// One way of reading, over all items of one number of passages.
struct ModeScore {
  const char* name;
  decode::PassageMode mode;
  float temperature, scale;
  double exact = 0, log_probability = 0, divergence = 0, same_top = 0;
};

void passages(const PassageOptions& o) {
  Session session(o.model);
  engine::Engine& engine = session.engine();
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  ProgressLine line(o.model.quiet);
  for (const int count : o.passages) {
    std::vector<ModeScore> modes{
        {"sequential", decode::PassageMode::kSequential, 1, 1},
        {"pcw", decode::PassageMode::kPcw, 1, 1},
        {"prefix", decode::PassageMode::kApe, 1, 1},
        {"prefix, temperature", decode::PassageMode::kApe, o.temperature, 1 / o.temperature},
        {"ape", decode::PassageMode::kApe, o.temperature, o.scale}};
    for (int i = 0; i < o.items; ++i) {
      if (line.due())
        line.show(std::to_string(count) + " passages, item " + std::to_string(i) + " of " +
                  std::to_string(o.items));
      const auto item = eval::lookup_item(uint32_t(o.first + i), count, o.facts);
      const SplitPrompt prompt = encode_raw_around(session, item.question, "Facts:\n\n");
      std::vector<eval::PassageQuestion> questions;
      for (const ModeScore& mode : modes) {
        eval::PassageQuestion& question = questions.emplace_back();
        question.prompt = prompt.tokens;
        question.passages.at = prompt.at;
        question.passages.mode = mode.mode;
        question.passages.temperature = mode.temperature;
        question.passages.scale = mode.scale;
        for (const std::string& text : item.passages) {
          question.passages.tokens.push_back(encode_passage(session.tokenizer(), text));
        }
        question.answer = session.tokenizer().encode(item.answer);
      }
      const auto scores = eval::score(engine, questions);
      const auto top = [](const std::vector<float>& x) {
        return std::max_element(x.begin(), x.end()) - x.begin();
      };
      for (size_t m = 0; m < modes.size(); ++m) {
        modes[m].exact += scores[m].exact;
        modes[m].log_probability += scores[m].log_probability;
        modes[m].divergence += eval::divergence(scores[0].logits, scores[m].logits);
        modes[m].same_top += top(scores[0].logits) == top(scores[m].logits);
      }
    }
    for (const ModeScore& mode : modes) {
      rows.push_back({{"passages", count},
                      {"mode", mode.name},
                      {"exact", mode.exact / o.items},
                      {"log_probability", mode.log_probability / o.items},
                      {"kl_from_sequential", mode.divergence / o.items},
                      {"top_1_agreement", mode.same_top / o.items}});
    }
  }
  line.clear();
  const nlohmann::ordered_json document{{"model", o.model.model},
                                        {"items", o.items},
                                        {"facts_per_passage", o.facts},
                                        {"temperature", o.temperature},
                                        {"scale", o.scale},
                                        {"kv", o.model.kv},
                                        {"rows", rows}};
  if (o.json) {
    std::cout << document.dump() << '\n';
    return;
  }
  std::printf("look-up in generated facts, %d items, %d facts a passage, T %.1f, S %.1f\n\n",
              o.items, o.facts, double(o.temperature), double(o.scale));
  std::printf("%8s  %-20s %8s %16s %14s %10s\n", "passages", "read", "exact", "log-probability",
              "KL from seq.", "same top-1");
  for (const auto& r : rows) {
    std::printf("%8d  %-20s %7.1f%% %16.3f %14.3f %9.1f%%\n", r["passages"].get<int>(),
                r["mode"].get<std::string>().c_str(), 100 * r["exact"].get<double>(),
                r["log_probability"].get<double>(), r["kl_from_sequential"].get<double>(),
                100 * r["top_1_agreement"].get<double>());
  }
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "eval", "measure a model: perplexity, passages, tasks, likelihood, shapes, logits");
  command->require_subcommand(1);

  auto p = std::make_shared<EvalOptions>();
  CLI::App* ppl =
      command->add_subcommand("perplexity", "perplexity of a text over disjoint windows");
  p->model.add_to(*ppl);
  ppl->add_option("-f,--file", p->file, "the text")->required();
  ppl->add_option("-c,--window", p->window, "text tokens per window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  ppl->add_option("--tokens", p->tokens, "only the first N tokens of the text");
  ppl->add_flag("--json", p->json, "one JSON document on stdout");
  ppl->callback([p] { perplexity(*p); });

  auto s = std::make_shared<PassageOptions>();
  CLI::App* reading = command->add_subcommand(
      "passages", "what reading contexts side by side costs: look-up questions");
  s->model.add_to(*reading);
  reading->add_option("--passages", s->passages, "numbers of passages, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 24))
      ->default_str("2,4,8,16");
  reading->add_option("--items", s->items, "questions")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  reading->add_option("--facts", s->facts, "facts per passage")
      ->check(CLI::Range(1, 96))
      ->capture_default_str();
  reading
      ->add_option("--first", s->first,
                   "number of the first question; tune on others than you report")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  reading->add_option("--context-temperature", s->temperature, "T of ape")
      ->check(CLI::Range(0.01f, 10.0f))
      ->capture_default_str();
  reading->add_option("--context-scale", s->scale, "S of ape")
      ->check(CLI::Range(0.01f, 10.0f))
      ->capture_default_str();
  reading->add_flag("--json", s->json, "one JSON document on stdout");
  reading->callback([s] { passages(*s); });

  add_eval_tasks(*command);
  add_eval_likelihood(*command);
  add_eval_shapes(*command);

  auto l = std::make_shared<EvalOptions>();
  CLI::App* raw = command->add_subcommand("logits", "raw fp32 logits [rows, vocab] to a file");
  l->model.add_to(*raw);
  raw->add_option("-f,--file", l->file, "the text");
  raw->add_option("--ids", l->ids, "token ids, separated by commas, instead of a text");
  raw->add_option("--image", l->images,
                  "with --ids: an image whose cells the ids' image tokens stand for; again for "
                  "each further one")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  raw->add_option("-c,--window", l->window, "text tokens per window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  raw->add_option("--tokens", l->tokens, "only the first N tokens of the text");
  raw->add_option("--first-window", l->first_window, "first window to write")
      ->capture_default_str();
  raw->add_option("--windows", l->windows, "how many windows (default: all)");
  raw->add_option("--out", l->out, "file of float32 values, row after row")->required();
  raw->add_flag("--json", l->json, "the windows' ids, as one JSON document on stdout");
  raw->callback([l] {
    if (l->file.empty() == l->ids.empty())
      throw Error(ErrorKind::kUsage, "eval logits: give -f FILE or --ids");
    if (!l->images.empty() && l->ids.empty())
      throw Error(ErrorKind::kUsage, "eval logits: --image goes with --ids");
    logits(*l);
  });
}

}  // namespace tutti::cli
