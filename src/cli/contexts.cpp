// tutti contexts: passages that are read once and kept (decode/ape), what they cost, and what they
// bring.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/context_options.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/roofs.h"
#include "cli/text_input.h"
#include "decode/generation.h"
#include "eval/passages.h"
#include "eval/plot.h"
#include "eval/run_program.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using decode::PassageMode;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string mebibytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", double(bytes) / (1 << 20));
  return text;
}

// ---- add, list, remove

struct AddOptions {
  ModelOptions model;
  ContextFolderOptions folder;
  std::vector<std::string> files;
  std::string name, system, prefix = "\n\n";
  bool raw = false, json = false;
};

// The prompt that a run with these options begins with; any query does.
SplitPrompt prompt_of(const Session& session, bool raw, const std::string& system,
                      const std::string& prefix, const std::string& query) {
  if (raw || !session.has_chat_template()) return encode_raw_around(session, query, prefix);
  Json messages = Json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", query}});
  return encode_around(session, std::move(messages), prefix);
}

Json entry_json(const decode::ContextFolder::Entry& e) {
  return {{"id", e.id},
          {"name", e.name},
          {"model", e.model},
          {"tokens", e.tokens.size()},
          {"prefix_tokens", e.prefix.size()},
          {"bytes", e.bytes}};
}

void print_entries(const std::vector<decode::ContextFolder::Entry>& entries, bool json) {
  if (json) {
    Json list = Json::array();
    for (const auto& e : entries) list.push_back(entry_json(e));
    std::cout << print_json(list) << '\n';
    return;
  }
  std::printf("%-16s  %8s  %10s  %-20s  %s\n", "id", "tokens", "size", "name", "model");
  for (const auto& e : entries) {
    std::printf("%-16s  %8zu  %10s  %-20s  %s\n", e.id.c_str(), e.tokens.size(),
                mebibytes(e.bytes).c_str(), e.name.empty() ? "-" : e.name.c_str(), e.model.c_str());
  }
}

void add(const AddOptions& o) {
  if (!o.name.empty() && o.files.size() > 1) {
    throw Error(ErrorKind::kUsage,
                "contexts add: --name is for one file; the names of several are their files'");
  }
  std::vector<std::string> texts;
  for (const std::string& file : o.files) {
    texts.push_back(read_input(file));
    if (texts.back().empty())
      throw Error(ErrorKind::kUsage, "context " + file + ": the file is empty");
  }
  Session session(o.model);
  engine::Engine& engine = session.engine();
  decode::ContextFolder folder = o.folder.open();
  decode::ContextStore::Options store_options;
  store_options.folder = folder;
  store_options.model = o.model.model;
  const auto store = std::make_shared<decode::ContextStore>(engine, std::move(store_options));
  const SplitPrompt prompt = prompt_of(session, o.raw, o.system, o.prefix, "?");
  const auto prefix = std::span(prompt.tokens).first(size_t(prompt.at));
  std::vector<std::string> ids;
  ProgressLine line(o.model.quiet);
  for (size_t i = 0; i < texts.size(); ++i) {
    line.show("reading context " + std::to_string(i + 1) + " of " + std::to_string(texts.size()));
    decode::Passages passages;
    passages.tokens = {encode_passage(session.tokenizer(), texts[i])};
    passages.at = prompt.at;
    passages.store = store;
    const int positions = decode::positions_before(passages);
    if (positions >= session.model().config().context_length) {
      throw Error(ErrorKind::kLimit,
                  "context " + o.files[i] + ": " + std::to_string(positions) +
                      " tokens with its prefix do not fit the model's context of " +
                      std::to_string(session.model().config().context_length) + "; split it");
    }
    const auto request = engine.new_request();
    eval::run_to_end(engine, request, [&]() -> Task<void> {
      const engine::Context read =
          co_await decode::read_passages(engine, request, prompt.tokens, passages);
    });
    const std::string id =
        decode::ContextFolder::id_of(store->key_of(prefix, passages.tokens.front(), 0));
    std::string name = o.name;
    if (name.empty() && o.files[i] != "-")
      name = std::filesystem::path(o.files[i]).filename().string();
    folder.set_name(folder.get(id), name);
    ids.push_back(id);
  }
  line.clear();
  std::vector<decode::ContextFolder::Entry> added;
  for (const std::string& id : ids) added.push_back(folder.get(id));
  print_entries(added, o.json);
}

// ---- tune

struct TuneOptions {
  ModelOptions model;
  std::string file;
  std::string system;
  bool raw = false, json = false;
};

struct TuneItem {
  std::vector<std::string> contexts;
  std::string prompt, answer;
};

std::vector<TuneItem> read_tune_items(const std::string& file) {
  std::vector<TuneItem> items;
  std::istringstream in(read_input(file));
  size_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      const Json j = parse_json(text);
      TuneItem item{j.at("contexts").get<std::vector<std::string>>(),
                    j.at("prompt").get<std::string>(), j.at("answer").get<std::string>()};
      if (item.contexts.empty() || item.answer.empty()) throw Error(ErrorKind::kUsage, "");
      items.push_back(std::move(item));
    } catch (const std::exception&) {
      throw Error(ErrorKind::kUsage,
                  file + ", line " + std::to_string(number) +
                      ": wants {\"contexts\": [texts], \"prompt\": text, \"answer\": text}");
    }
  }
  if (items.empty())
    throw Error(ErrorKind::kUsage, file + ": holds no items; give a JSON object a line");
  return items;
}

// One setting of the search and how well answers come out under it.
struct Setting {
  PassageMode mode = PassageMode::kApe;
  std::string prefix = "\n\n";
  float temperature = 1, scale = 1;
};
struct SettingScore {
  double log_probability = 0;  // per answer, mean
  double exact = 0;            // share
};

void tune(const TuneOptions& o) {
  const std::vector<TuneItem> items = read_tune_items(o.file);
  Session session(o.model);
  engine::Engine& engine = session.engine();
  const auto store =
      std::make_shared<decode::ContextStore>(engine, decode::ContextStore::Options{});
  ProgressLine line(o.model.quiet);
  int tried = 0;
  Json table = Json::array();
  const auto measure = [&](const Setting& setting) {
    SettingScore total;
    std::vector<eval::PassageQuestion> questions;
    for (const TuneItem& item : items) {
      eval::PassageQuestion& question = questions.emplace_back();
      SplitPrompt prompt = prompt_of(session, o.raw, o.system, setting.prefix, item.prompt);
      question.prompt = std::move(prompt.tokens);
      question.passages.at = prompt.at;
      question.passages.mode = setting.mode;
      question.passages.temperature = setting.temperature;
      question.passages.scale = setting.scale;
      question.passages.store = store;
      for (const std::string& text : item.contexts) {
        question.passages.tokens.push_back(encode_passage(session.tokenizer(), text));
      }
      question.answer = session.tokenizer().encode(item.answer);
    }
    const auto scores = eval::score(engine, questions);
    for (const auto& score : scores) {
      total.log_probability += score.log_probability / double(items.size());
      total.exact += score.exact / double(items.size());
    }
    line.show("setting " + std::to_string(++tried));
    table.push_back(
        {{"mode", decode::name(setting.mode)},
         {"prefix_newlines", std::count(setting.prefix.begin(), setting.prefix.end(), '\n')},
         {"temperature", setting.temperature},
         {"scale", setting.scale},
         {"log_probability", total.log_probability},
         {"exact", total.exact}});
    return total.log_probability;
  };

  Setting best;
  for (const PassageMode mode : {PassageMode::kSequential, PassageMode::kPcw}) {
    Setting baseline;
    baseline.mode = mode;
    measure(baseline);
  }
  // Greedily, as the paper: the prefix, then the temperature, then the scale.
  double score = measure(best);
  for (const int newlines : {12, 22, 42}) {
    Setting next = best;
    next.prefix = std::string(size_t(newlines), '\n');
    if (const double s = measure(next); s > score) score = s, best = next;
  }
  const auto search = [&](float Setting::* value) {
    const Setting start = best;
    for (int tenths = 1; tenths < 10; ++tenths) {
      Setting next = start;
      next.*value = float(tenths) / 10;
      if (const double s = measure(next); s > score) score = s, best = next;
    }
  };
  search(&Setting::temperature);
  search(&Setting::scale);
  line.clear();
  const auto newlines = std::count(best.prefix.begin(), best.prefix.end(), '\n');
  if (o.json) {
    const Json chosen{{"prefix_newlines", newlines},
                      {"temperature", best.temperature},
                      {"scale", best.scale},
                      {"log_probability", score}};
    std::cout << print_json(Json{{"items", items.size()}, {"settings", table}, {"best", chosen}})
              << '\n';
    return;
  }
  std::printf("%-11s %8s %12s %6s %16s %7s\n", "mode", "newlines", "temperature", "scale",
              "log-probability", "exact");
  for (const Json& row : table) {
    std::printf("%-11s %8d %12.1f %6.1f %16.4f %6.1f%%\n", row["mode"].get<std::string>().c_str(),
                row["prefix_newlines"].get<int>(), row["temperature"].get<double>(),
                row["scale"].get<double>(), row["log_probability"].get<double>(),
                100 * row["exact"].get<double>());
  }
  std::printf(
      "\nbest: a prefix of %d newlines, --context-temperature %.1f --context-scale %.1f (%zu "
      "items)\n",
      int(newlines), double(best.temperature), double(best.scale), items.size());
}

// ---- bench

struct BenchOptions {
  ModelOptions model;
  std::vector<int> lengths{2048, 4096, 8192};
  int passage = 512, query = 64, tokens = 64, repeats = 3;
  bool json = false;
  std::string svg, folder;
};

struct Timing {
  double prefill = 0, decode = 0, load = 0;
};

Timing time_one(Session& session, const std::vector<int32_t>& prompt,
                const decode::Passages& passages, int tokens) {
  engine::Engine& engine = session.engine();
  Timing timing;
  const auto request = engine.new_request();
  const auto want = [] {
    engine::Want w;
    w.pick = true;
    w.sampling.temperature = 0;
    return w;
  };
  eval::run_to_end(engine, request, [&]() -> Task<void> {
    const auto start = Clock::now();
    engine::Context context;
    std::vector<int32_t> rest;
    if (passages.parallel()) {
      context = co_await decode::read_passages(engine, request, prompt, passages);
      rest.assign(prompt.begin() + decode::prompt_tokens_held(passages), prompt.end());
      timing.load = seconds_since(start);
    } else {
      context = engine::Context(engine, request);
      rest = decode::sequential_prompt(prompt, passages);
    }
    engine::Answer answer = co_await engine.forward(
        context, engine::Rows::append(rest, context.next_position(), want()));
    timing.prefill = seconds_since(start);
    for (int i = 1; i < tokens; ++i) {
      const int32_t token = answer.rows.back().picked.token;
      answer = co_await engine.forward(
          context, engine::Rows::append({&token, 1}, context.next_position(), want()));
    }
    timing.decode = seconds_since(start) - timing.prefill;
  });
  return timing;
}

void bench(const BenchOptions& o) {
  engine::EngineOptions engine_options;
  engine_options.prefix_cache = false;  // repeats must not find each other's pages
  Session session(o.model, engine_options, Session::Input::kIds);
  const models::Config& config = session.model().config();
  uint32_t stream = 1;
  const auto draw = [&](int n) {
    DrawKey key;
    key.purpose = Purpose::kTrace;
    key.path = stream++;
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i)
      tokens.push_back(int32_t(draw_word(key, uint32_t(i)) % uint32_t(config.vocab)));
    return tokens;
  };
  constexpr int kPrefix = 16;
  const int longest = kPrefix + o.passage + o.query + o.tokens;
  if (longest > config.context_length) {
    throw Error(ErrorKind::kUsage, "contexts bench: a passage, the query and the tokens take " +
                                       std::to_string(longest) + " positions of " +
                                       std::to_string(config.context_length) +
                                       "; give a shorter --passage");
  }
  const auto folder =
      std::filesystem::path(o.folder.empty() ? default_context_folder() + "-bench" : o.folder);
  Json rows = Json::array();
  ProgressLine line(o.model.quiet);
  for (const int length : o.lengths) {
    const std::vector<int32_t> prompt = draw(kPrefix + o.query);
    decode::Passages passages;
    passages.at = kPrefix;
    for (int left = length; left > 0; left -= o.passage)
      passages.tokens.push_back(draw(std::min(left, o.passage)));
    decode::ContextStore::Options memory, disk;
    memory.pages = disk.pages = session.engine().pages().total();
    disk.folder.emplace(folder);
    std::vector<double> sequential, cached, loaded, decode_seq, decode_ape, disk_rate;
    decode::Passages plain = passages;
    plain.mode = PassageMode::kSequential;
    passages.store = std::make_shared<decode::ContextStore>(session.engine(), memory);
    time_one(session, prompt, passages, 1);  // reads them
    {
      decode::Passages first = passages;
      first.store = std::make_shared<decode::ContextStore>(session.engine(), disk);
      time_one(session, prompt, first, 1);
    }
    for (int repeat = 0; repeat < o.repeats; ++repeat) {
      line.show(std::to_string(length) + " tokens, repeat " + std::to_string(repeat + 1));
      const Timing a = time_one(session, prompt, plain, o.tokens);
      const Timing b = time_one(session, prompt, passages, o.tokens);
      decode::Passages from_disk = passages;
      from_disk.store = std::make_shared<decode::ContextStore>(session.engine(), disk);
      const Timing c = time_one(session, prompt, from_disk, 1);
      const auto& s = from_disk.store->statistics();
      sequential.push_back(a.prefill);
      decode_seq.push_back(a.decode);
      cached.push_back(b.prefill);
      decode_ape.push_back(b.decode);
      loaded.push_back(c.prefill);
      disk_rate.push_back(s.disk_seconds > 0 ? double(s.disk_bytes) / s.disk_seconds : 0.0);
    }
    const auto median = [](const std::vector<double>& samples) {
      return spread_of(samples).median;
    };
    const double seq = median(sequential), ape = median(cached), from_disk = median(loaded);
    const double ds = median(decode_seq), da = median(decode_ape);
    rows.push_back({{"context_tokens", length},
                    {"passages", passages.tokens.size()},
                    {"beyond_window", length + kPrefix + o.query > config.context_length},
                    {"sequential_prefill_s", seq},
                    {"ape_prefill_memory_s", ape},
                    {"ape_prefill_disk_s", from_disk},
                    {"prefill_ratio_memory", seq / ape},
                    {"prefill_ratio_disk", seq / from_disk},
                    {"decode_sequential_s", ds},
                    {"decode_ape_s", da},
                    {"end_to_end_ratio_memory", (seq + ds) / (ape + da)},
                    {"end_to_end_ratio_disk", (seq + ds) / (from_disk + da)},
                    {"disk_bytes_s", median(disk_rate)}});
  }
  line.clear();
  std::error_code ignored;
  if (o.folder.empty()) std::filesystem::remove_all(folder, ignored);
  const Json document{{"model", o.model.model},
                      {"threads", session.pool()->threads()},
                      {"isa", tensor::name(tensor::kernels().isa)},
                      {"kv", o.model.kv},
                      {"passage", o.passage},
                      {"query", o.query},
                      {"tokens", o.tokens},
                      {"repeats", o.repeats},
                      {"rows", rows}};
  if (!o.svg.empty()) {
    eval::Plot plot("prefill of a query behind contexts, " + o.model.model, "context tokens",
                    "seconds");
    for (const auto& [key, name] : {std::pair("sequential_prefill_s", "sequential"),
                                    {"ape_prefill_memory_s", "APE, contexts in memory"},
                                    {"ape_prefill_disk_s", "APE, contexts on disk"}}) {
      std::vector<std::pair<double, double>> points;
      for (const Json& row : rows)
        points.emplace_back(row["context_tokens"].get<double>(), row[key].get<double>());
      plot.add_line(name, std::move(points));
    }
    write_file_atomically(o.svg, plot.svg());
  }
  if (o.json) {
    std::cout << print_json(document) << '\n';
    return;
  }
  std::printf(
      "%s, %s, %d threads, KV %s; passages of %d, query of %d, %d tokens decoded, median of %d\n",
      o.model.model.c_str(), std::string(tensor::name(tensor::kernels().isa)).c_str(),
      session.pool()->threads(), o.model.kv.c_str(), o.passage, o.query, o.tokens, o.repeats);
  std::printf("%8s %12s %12s %12s %9s %9s %11s %10s\n", "context", "sequential", "APE memory",
              "APE disk", "ratio", "disk", "end to end", "disk GB/s");
  for (const Json& r : rows) {
    std::printf("%7d%s %10.3f s %10.3f s %10.3f s %8.1fx %8.1fx %10.2fx %10.2f\n",
                r["context_tokens"].get<int>(), r["beyond_window"].get<bool>() ? "*" : " ",
                r["sequential_prefill_s"].get<double>(), r["ape_prefill_memory_s"].get<double>(),
                r["ape_prefill_disk_s"].get<double>(), r["prefill_ratio_memory"].get<double>(),
                r["prefill_ratio_disk"].get<double>(), r["end_to_end_ratio_memory"].get<double>(),
                r["disk_bytes_s"].get<double>() / 1e9);
  }
  std::printf("* longer than the model's window: timing only\n");
}

}  // namespace

void add_contexts(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "contexts", "texts that are read once and kept, for 'tutti run --context'");
  command->require_subcommand(1);

  auto a = std::make_shared<AddOptions>();
  CLI::App* adding = command->add_subcommand("add", "read files and keep their keys and values");
  a->model.add_to(*adding);
  a->folder.add_to(*adding);
  adding->add_option("files", a->files, "texts; -: standard input")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  adding->add_option("--name", a->name, "its name (default: the file's)");
  CLI::Option* system =
      adding->add_option("--system", a->system, "the system message of the runs that will use it");
  adding->add_option("--context-prefix", a->prefix, "the prefix of those runs")
      ->default_str("two newlines");
  adding->add_flag("--raw", a->raw, "for runs with --raw")->excludes(system);
  adding->add_flag("--json", a->json, "one JSON document on stdout");
  adding->callback([a] { add(*a); });

  auto l = std::make_shared<AddOptions>();
  CLI::App* listing = command->add_subcommand("list", "what is kept, most recently used first");
  l->folder.add_to(*listing);
  listing->add_flag("--json", l->json, "one JSON document on stdout");
  listing->callback([l] { print_entries(l->folder.open().list(), l->json); });

  struct RemoveOptions {
    ContextFolderOptions folder;
    std::vector<std::string> ids;
    bool all = false;
  };
  auto r = std::make_shared<RemoveOptions>();
  CLI::App* removing = command->add_subcommand("remove", "remove kept contexts by id or name");
  r->folder.add_to(*removing);
  removing->add_option("ids", r->ids, "ids, beginnings of ids, or names")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  removing->add_flag("--all", r->all, "all of them");
  removing->callback([r] {
    if (r->ids.empty() != r->all)
      throw Error(ErrorKind::kUsage, "contexts remove: give ids, or --all");
    decode::ContextFolder folder = r->folder.open();
    std::vector<decode::ContextFolder::Entry> entries;
    for (const std::string& id : r->ids) entries.push_back(folder.get(id));
    if (r->all) entries = folder.list();
    for (const auto& entry : entries) folder.remove(entry);
    std::printf("removed %zu contexts\n", entries.size());
  });

  auto t = std::make_shared<TuneOptions>();
  CLI::App* tuning =
      command->add_subcommand("tune", "find prefix, temperature and scale on labelled questions");
  t->model.add_to(*tuning);
  tuning
      ->add_option("file", t->file,
                   "a .jsonl file: {\"contexts\": [texts], \"prompt\", \"answer\"} a line; -: "
                   "standard input")
      ->required();
  CLI::Option* tune_system = tuning->add_option("--system", t->system, "system message");
  tuning->add_flag("--raw", t->raw, "without the chat template")->excludes(tune_system);
  tuning->add_flag("--json", t->json, "one JSON document on stdout");
  tuning->callback([t] { tune(*t); });

  auto b = std::make_shared<BenchOptions>();
  CLI::App* timing = command->add_subcommand(
      "bench", "time of a query behind contexts: sequential against kept ones");
  b->model.add_to(*timing);
  timing
      ->add_option("--lengths", b->lengths, "tokens of all contexts together, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->default_str("2048,4096,8192");
  timing->add_option("--passage", b->passage, "tokens of one context")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  timing->add_option("--query", b->query, "tokens behind them")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  timing->add_option("-n,--tokens", b->tokens, "tokens decoded")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  timing->add_option("--repeats", b->repeats, "measurements; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  timing->add_option("--bench-folder", b->folder,
                     "where contexts are kept meanwhile (default: beside the others, removed)");
  timing->add_flag("--json", b->json, "one JSON document on stdout");
  timing->add_option("--svg", b->svg, "write a plot of the prefill times");
  timing->callback([b] { bench(*b); });
}

}  // namespace tutti::cli
