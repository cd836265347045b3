// tutti eval: perplexity of a text, and raw logits for comparison with other implementations.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/session.h"
#include "eval/perplexity.h"

namespace tutti::cli {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string file;
  std::string ids;
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
      throw Error(ErrorKind::kUsage, "--ids: '" + part + "' is not a token id; give numbers separated by commas");
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
    std::cout << nlohmann::ordered_json{{"nll", result.nll}, {"tokens", result.tokens}, {"ppl", result.ppl()}}.dump()
              << '\n';
  } else {
    std::printf("perplexity %.4f over %lld tokens (%.5f nats a token), windows of %d\n", result.ppl(),
                static_cast<long long>(result.tokens), result.nll / double(result.tokens), o.window);
  }
}

void logits(const EvalOptions& o) {
  Session session(o.model, {}, o.ids.empty() ? Session::Input::kText : Session::Input::kIds);
  // --ids are taken as they are. A window of a model that reads BOS begins with it, in place of the window's last
  // token, which predicts nothing inside it: each of the window's tokens is predicted by one row.
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
  const int last = o.windows > 0 ? std::min(int(windows.size()), first + o.windows) : int(windows.size());
  if (first < 0 || first >= int(windows.size())) {
    throw Error(ErrorKind::kUsage, "--first-window " + std::to_string(first) + ": the text has " +
                                       std::to_string(windows.size()) + " windows");
  }
  nlohmann::ordered_json ids = nlohmann::ordered_json::array();
  write_file_atomically(o.out, [&](const Sink& sink) {
    for (int w = first; w < last; ++w) {
      ids.push_back(windows[size_t(w)]);
      eval::window_logits(session.engine(), windows[size_t(w)],
                          [&](int, std::span<const float> row) { sink(std::as_bytes(row)); });
    }
  });
  if (o.json) {
    std::cout << nlohmann::ordered_json{{"vocab", session.model().config().vocab}, {"windows", std::move(ids)}}.dump()
              << '\n';
  }
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "measure a model: perplexity, logits");
  command->require_subcommand(1);

  auto p = std::make_shared<EvalOptions>();
  CLI::App* ppl = command->add_subcommand("perplexity", "perplexity of a text over disjoint windows");
  p->model.add_to(*ppl);
  ppl->add_option("-f,--file", p->file, "the text")->required();
  ppl->add_option("-c,--window", p->window, "text tokens per window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  ppl->add_option("--tokens", p->tokens, "only the first N tokens of the text");
  ppl->add_flag("--json", p->json, "one JSON document on stdout");
  ppl->callback([p] { perplexity(*p); });

  auto l = std::make_shared<EvalOptions>();
  CLI::App* raw = command->add_subcommand("logits", "raw fp32 logits [rows, vocab] to a file");
  l->model.add_to(*raw);
  raw->add_option("-f,--file", l->file, "the text");
  raw->add_option("--ids", l->ids, "token ids, separated by commas, instead of a text");
  raw->add_option("-c,--window", l->window, "text tokens per window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  raw->add_option("--tokens", l->tokens, "only the first N tokens of the text");
  raw->add_option("--first-window", l->first_window, "first window to write")->capture_default_str();
  raw->add_option("--windows", l->windows, "how many windows (default: all)");
  raw->add_option("--out", l->out, "file of float32 values, row after row")->required();
  raw->add_flag("--json", l->json, "the windows' ids, as one JSON document on stdout");
  raw->callback([l] {
    if (l->file.empty() == l->ids.empty()) throw Error(ErrorKind::kUsage, "eval logits: give -f FILE or --ids");
    logits(*l);
  });
}

}  // namespace tutti::cli
