// tutti run: one prompt, or a file of prompts all at once.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "cli/canvas_trace.h"
#include "cli/commands.h"
#include "cli/context_options.h"
#include "cli/draft_session.h"
#include "cli/grammar_options.h"
#include "cli/images.h"
#include "cli/job_line.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/sampling_options.h"
#include "cli/session.h"
#include "cli/text_input.h"
#include "cli/verify_plain.h"
#include "decode/ape/passages.h"
#include "decode/draft_counts.h"
#include "decode/method.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  ContextOptions contexts;
  CanvasTraceOptions trace;
  DraftModelOptions draft;
  GrammarOptions grammar;
  std::string prompt;
  std::string file;
  std::string system;
  std::string prompts;
  int parallel = 0;  // lines of --prompts that are answered at a time; 0: all
  std::vector<std::string> images;
  enum class From { kPrompt, kFile, kLines } from = From::kPrompt;
  std::string prompt_cache;
  bool prompt_cache_read_only = false;
  bool raw = false;
  bool json = false;
  bool verify_only = false;
};

// One request of a run and what became of it.
struct Job {
  JobLine line;
  size_t number = 0;  // of the line in the file
  std::vector<int32_t> prompt;
  std::vector<vision::Patches> images;
  std::shared_ptr<engine::Request> request;
  std::vector<decode::Completion> completions;
  std::exception_ptr error;
  Clock::time_point start, first, end;
  std::optional<decode::PassageMass> mass;
  size_t tokens = 0;            // so far
  size_t first_tokens = 0;      // in the first piece
  uint64_t first_forwards = 0;  // when it came
  bool streaming = false;
};

Json logprobs_json(const decode::Completion& c, const text::Tokenizer& tokenizer) {
  Json list = Json::array();
  for (const auto& picked : c.picked) {
    Json top = Json::array();
    for (const auto& t : picked.top) {
      top.push_back({{"id", t.token},
                     {"text", tokenizer.decode(std::span(&t.token, 1))},
                     {"logprob", t.log_probability}});
    }
    list.push_back(
        {{"id", picked.token}, {"logprob", picked.raw_log_probability}, {"top", std::move(top)}});
  }
  return list;
}

Json stats_json(const Job& job) {
  const auto& s = job.request->statistics;
  size_t tokens = 0;
  for (const auto& c : job.completions) tokens += c.ids.size();
  double prompt_seconds = std::chrono::duration<double>(job.first - job.start).count();
  double decode_seconds = std::chrono::duration<double>(job.end - job.first).count();
  // The first piece came with the prompt; but a text that comes at the end (beam search) took the
  // whole time.
  size_t later = tokens - std::min(tokens, job.first_tokens);
  if (s.forwards == 0) {
    prompt_seconds = decode_seconds = 0;  // nothing was computed
  } else if (job.first_forwards == s.forwards) {
    prompt_seconds = decode_seconds = std::chrono::duration<double>(job.end - job.start).count();
    later = tokens;
  }
  Json json{{"prompt_tokens", s.prompt_tokens},
            {"cached_tokens", s.cached_tokens},
            {"prompt_cache_tokens", job.line.contexts ? 0 : s.loaded_tokens},
            {"context_store_tokens", job.line.contexts ? s.loaded_tokens : 0},
            {"tokens", tokens},
            {"forwards", s.forwards},
            {"rows", s.rows},
            {"tokens_per_forward", s.forwards ? double(tokens) / double(s.forwards) : 0.0},
            {"rows_per_forward", s.forwards ? double(s.rows) / double(s.forwards) : 0.0},
            {"preemptions", s.preemptions},
            {"prompt_seconds", prompt_seconds},
            {"decode_seconds", decode_seconds},
            {"prompt_tok_s", prompt_seconds > 0 ? double(s.prompt_tokens) / prompt_seconds : 0.0},
            {"tok_s", decode_seconds > 0 ? double(later) / decode_seconds : 0.0}};
  decode::MethodStatistics m;
  for (const auto& c : job.completions) {
    m.forwards += c.statistics.forwards;
    m.rows += c.statistics.rows;
    m.refreshes += c.statistics.refreshes;
    m.stores += c.statistics.stores;
    m.proposed += c.statistics.proposed;
    m.accepted += c.statistics.accepted;
    m.draft_forwards += c.statistics.draft_forwards;
    m.draft_seconds += c.statistics.draft_seconds;
    m.overlap_seconds += c.statistics.overlap_seconds;
    decode::add_counts(m.runs, c.statistics.runs);
    decode::add_counts(m.drafted_at, c.statistics.drafted_at);
    decode::add_counts(m.accepted_at, c.statistics.accepted_at);
  }
  if (m.forwards > 0) {
    json["method"] = {
        {"forwards", m.forwards},   {"tokens_per_forward", double(tokens) / double(m.forwards)},
        {"refreshes", m.refreshes}, {"stores", m.stores},
        {"proposed", m.proposed},   {"accepted", m.accepted}};
    if (m.rows > 0) json["method"]["rows"] = m.rows;
    if (!m.drafted_at.empty()) {
      json["method"]["drafted_by_position"] = m.drafted_at;
      json["method"]["accepted_by_position"] = m.accepted_at;
    }
    if (m.draft_forwards > 0) {
      json["method"]["draft_forwards"] = m.draft_forwards;
      json["method"]["draft_seconds"] = m.draft_seconds;
      if (!m.runs.empty()) {
        json["method"]["overlap_seconds"] = m.overlap_seconds;
        json["method"]["runs"] = m.runs;
      }
    }
  }
  return json;
}

Json job_json(const Job& job, const text::Tokenizer& tokenizer) {
  const auto one = [&](const decode::Completion& c) {
    Json j{{"text", c.text}, {"ids", c.ids}, {"finish_reason", decode::name(c.finish)}};
    if (job.line.options.sampling.logprobs >= 0) j["logprobs"] = logprobs_json(c, tokenizer);
    return j;
  };
  Json j = one(job.completions.front());
  j["prompt_ids"] = job.prompt;
  if (!job.line.id.is_null()) j["id"] = job.line.id;
  if (job.completions.size() > 1) {
    Json choices = Json::array();
    for (const auto& c : job.completions) choices.push_back(one(c));
    j["choices"] = std::move(choices);
  }
  if (job.mass) {
    j["context_mass"] = {{"prefix", job.mass->prefix},
                         {"contexts", job.mass->passages},
                         {"layers", job.mass->by_layer}};
  }
  j["stats"] = stats_json(job);
  return j;
}

// The prompt's tokens; those of its contexts go to the line's options. Throws what the chat
// template or the tokenizer has against it.
std::vector<int32_t> encode(const Session& session, const RunOptions& o, JobLine& line) {
  const bool raw = !line.messages && (line.raw.value_or(o.raw) || !session.has_chat_template());
  Json messages = line.messages.value_or(Json::array());
  if (!line.messages && !raw) {
    const std::string system = line.system.value_or(o.system);
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    messages.push_back(user_turn(line.prompt, line.images.size()));
  }
  if (!line.contexts || line.contexts->empty()) {
    return raw ? session.encode_raw(with_image_places(line.prompt, line.images.size()))
               : session.encode_chat(messages);
  }
  const std::string prefix = line.context_prefix.value_or(o.contexts.prefix);
  SplitPrompt prompt = raw ? encode_raw_around(session, line.prompt, prefix)
                           : encode_around(session, std::move(messages), prefix);
  decode::Passages& passages = line.options.passages;
  passages.at = prompt.at;
  passages.tokens = encode_passages(session, o.contexts.folder.open(), *line.contexts,
                                    std::span(prompt.tokens).first(size_t(prompt.at)));
  return std::move(prompt.tokens);
}

// All lines of a --prompts file, so that a mistake in the last one shows before the first one costs
// anything.
std::vector<Job> read_jobs(const RunOptions& o, const decode::GenerationOptions& defaults) {
  std::vector<Job> jobs;
  std::istringstream in(read_input(o.prompts));
  size_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = o.prompts + ", line " + std::to_string(number) + ": ";
    Job job;
    job.number = number;
    try {
      job.line = parse_job_line(text, defaults);
    } catch (const Error& error) {
      throw Error(error.kind(), place + error.what());
    }
    for (const std::string& key : job.line.unknown) {
      if (o.model.quiet) break;
      std::fprintf(stderr, "note: %sunknown key %s is ignored\n", place.c_str(),
                   print_json(key).c_str());
    }
    jobs.push_back(std::move(job));
  }
  if (jobs.empty())
    throw Error(ErrorKind::kUsage, o.prompts + ": holds no prompts; give a JSON object a line");
  return jobs;
}

std::string what_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  }
}

// What a number of jobs did together, as a line for people.
struct Total {
  size_t prompt_tokens = 0, tokens = 0;
  double seconds = 0;
};

void print_total(const Total& t, const engine::EngineStatistics& s, const char* what,
                 size_t count) {
  std::fprintf(stderr, "[%zu %s, %zu prompt tokens, %zu tokens, %.1f/s; %.2f rows per forward]\n",
               count, what, t.prompt_tokens, t.tokens,
               t.seconds > 0 ? double(t.tokens) / t.seconds : 0.0, s.rows_per_forward());
}

// Attention to each context, the most read first.
void print_mass(const decode::PassageMass& mass, const std::vector<ContextText>& texts,
                const std::vector<std::string>& names) {
  std::vector<size_t> order(mass.passages.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return mass.passages[a] > mass.passages[b]; });
  std::fprintf(stderr, "attention of the answer: %.1f %% to the prefix\n", 100 * mass.prefix);
  for (const size_t i : order) {
    const std::string& name =
        i < names.size() && names.size() == texts.size() ? names[i] : texts[i].stored;
    std::fprintf(stderr, "  %5.1f %%  context %zu%s%s\n", 100 * mass.passages[i], i + 1,
                 name.empty() ? "" : ", ", name.c_str());
  }
}

void run(const RunOptions& o) {
  decode::GenerationOptions defaults = o.sampling.resolve();
  o.contexts.resolve(defaults.passages);
  o.draft.resolve(defaults);
  const auto grammar = o.grammar.source();
  if (defaults.method != "auto")
    decode::find_method(defaults.method);  // a misspelt name need not wait for the model
  std::vector<Job> jobs;
  if (o.from == RunOptions::From::kLines) {
    jobs = read_jobs(o, defaults);
  } else {
    jobs.emplace_back();
    jobs[0].line.options = defaults;
    jobs[0].line.prompt = o.from == RunOptions::From::kFile ? read_input(o.file) : o.prompt;
    jobs[0].line.options.prompt_cache = o.prompt_cache;
    jobs[0].line.options.prompt_cache_read_only = o.prompt_cache_read_only;
    jobs[0].streaming = !o.json && defaults.n == 1 && !o.trace.live && !o.verify_only;
  }
  for (Job& job : jobs) {
    if (job.line.images.empty()) job.line.images = o.images;
  }
  if (!o.contexts.contexts.empty()) {
    const std::vector<ContextText> texts = o.contexts.texts();
    for (Job& job : jobs) {
      if (!job.line.contexts) job.line.contexts = texts;
    }
  }
  const bool lines = o.from == RunOptions::From::kLines;
  if (!o.prompt_cache.empty() && lines) {
    throw Error(ErrorKind::kUsage,
                "run: --prompt-cache holds one prompt; use it with -p or -f, not with --prompts");
  }
  Session session(o.model);
  std::optional<DraftSession> drafting;
  if (!o.draft.model.empty()) drafting.emplace(o.draft, session);
  const text::Tokenizer& tokenizer = session.tokenizer();
  const auto constraint = constraint_of(grammar, session);
  if (!o.raw && !session.has_chat_template() && !o.model.quiet) {
    std::fprintf(stderr,
                 "note: %s has no chat template (a base model); the prompt is taken as it is\n",
                 o.model.model.c_str());
  }
  engine::Engine& engine = session.engine();
  std::optional<CanvasTrace> trace;
  if (o.trace.live || !o.trace.lines.empty() || !o.trace.page.empty()) {
    if (lines)
      throw Error(ErrorKind::kUsage,
                  "run: --visual and --trace show one prompt; use -p or -f, not --prompts");
    if (session.model().config().attention == models::AttentionKind::kCausal) {
      throw Error(
          ErrorKind::kUsage,
          "run: --visual and --trace show how a masked model fills in its answer; this model (" +
              session.model().config().architecture + ") writes from left to right");
    }
    trace.emplace(o.trace, tokenizer);
    jobs[0].line.options.on_canvas = [&trace](const decode::CanvasStep& step) {
      trace->show(step);
    };
  }
  std::optional<ImageReader> images;
  if (std::any_of(jobs.begin(), jobs.end(),
                  [](const Job& job) { return !job.line.images.empty(); })) {
    images.emplace(session.model().checkpoint());
  }
  std::shared_ptr<decode::ContextStore> store;
  if (std::any_of(jobs.begin(), jobs.end(),
                  [](const Job& job) { return job.line.contexts.has_value(); })) {
    store = o.contexts.open_store(session);
  }
  const auto start = Clock::now();
  for (Job& job : jobs) {
    job.request = engine.new_request();
    try {
      job.prompt = encode(session, o, job.line);
      if (!job.line.images.empty()) {
        job.images = images->read(job.line.images);
        job.prompt = images->expand(job.prompt, job.images);
      }
      job.line.options.passages.store = store;
      job.line.options.constraint = constraint;
      if (drafting) job.line.options.draft_model = drafting->model();
      if (o.verify_only) fix_seed(job.line.options);
    } catch (const Error&) {
      job.error = std::current_exception();
    }
  }
  size_t waiting = 0;  // the first job that was not begun
  std::function<void()> begin_next;
  const auto begin_job = [&](Job& job) {
    job.start = job.first = job.end = Clock::now();
    engine.spawn(
        job.request,
        [&]() -> Task<void> {
          if (!job.images.empty()) {
            job.line.options.prompt_rows =
                co_await images->rows(engine, job.request, job.prompt, std::move(job.images));
          }
          job.completions = co_await decode::generate(
              engine, tokenizer, job.request, job.prompt, job.line.options,
              [&job](const decode::Piece& piece) {
                if (job.tokens == 0) {
                  job.first = Clock::now();
                  job.first_tokens = piece.ids.size();
                  job.first_forwards = job.request->statistics.forwards;
                }
                job.tokens += piece.ids.size();
                if (!job.streaming) return;
                std::fwrite(piece.text.data(), 1, piece.text.size(), stdout);
                std::fflush(stdout);
              });
          job.end = Clock::now();
        },
        [&job, &begin_next](std::exception_ptr error) {
          job.error = error;
          begin_next();
        });
  };
  begin_next = [&] {
    while (waiting < jobs.size()) {
      if (Job& job = jobs[waiting++]; !job.error) return begin_job(job);
    }
  };
  for (size_t i = 0; i < (o.parallel > 0 ? size_t(o.parallel) : jobs.size()); ++i) begin_next();
  const auto total_now = [&] {
    Total total;
    total.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    for (const Job& job : jobs) {
      total.prompt_tokens += job.request->statistics.prompt_tokens;
      total.tokens += job.tokens;
    }
    return total;
  };
  {
    ProgressLine live(o.model.quiet || jobs[0].streaming || o.trace.live);
    if (live.on()) {
      engine.on_tick([&](const engine::TickReport& tick) {
        if (!live.due()) return;
        const Total t = total_now();
        char text[120];
        std::snprintf(text, sizeof text, "%zu tokens, %.1f/s; %d requests, %d rows in this forward",
                      t.tokens, double(t.tokens) / t.seconds, tick.requests, tick.rows);
        live.show(text);
      });
    }
    engine.run();
    engine.on_tick({});
  }
  const Total total = total_now();
  if (trace) trace->close();
  if (o.contexts.report) {
    for (Job& job : jobs) {
      if (!job.line.contexts || job.error || job.completions.empty()) continue;
      const auto request = engine.new_request();
      engine.spawn(
          request,
          [&engine, &job, request]() -> Task<void> {
            job.mass = co_await decode::passage_mass(engine, request, job.prompt,
                                                     job.line.options.passages,
                                                     job.completions.front().ids);
          },
          [&job](std::exception_ptr error) { job.error = error; });
    }
    engine.run();
  }

  if (!lines && jobs[0].error) {
    // The error does not go on where the text stopped.
    if (jobs[0].streaming && jobs[0].tokens > 0) std::cout << std::endl;
    std::rethrow_exception(jobs[0].error);
  }
  if (o.verify_only) {
    std::vector<PlainCheck> checks;
    for (const Job& job : jobs) {
      if (job.error) std::rethrow_exception(job.error);
      checks.push_back({job.number, &job.prompt, &job.line.options, &job.completions});
    }
    const size_t tokens = verify_plain(engine, tokenizer, checks);
    std::printf("%zu prompts, %zu tokens: as plain decoding has them\n", jobs.size(), tokens);
    return;
  }
  size_t failed = 0;
  for (const Job& job : jobs) {
    if (job.error) {
      // Other lines of the file still count: the failed one says why in its place.
      ++failed;
      Json j{{"error", what_of(job.error)}, {"line", job.number}};
      if (!job.line.id.is_null()) j["id"] = job.line.id;
      std::cout << print_json(j) << '\n';
    } else if (o.json || lines) {
      std::cout << print_json(job_json(job, tokenizer)) << '\n';
    } else if (job.streaming) {
      std::cout << '\n';
    } else if (job.completions.size() == 1) {
      std::cout << job.completions[0].text << '\n';
    } else {
      for (size_t i = 0; i < job.completions.size(); ++i) {
        std::cout << "--- " << i + 1 << " ---\n" << job.completions[i].text << '\n';
      }
    }
  }
  std::cout.flush();
  if (!o.json && !o.model.quiet) {
    if (lines) {
      print_total(total, engine.statistics(), "prompts", jobs.size());
    } else if (jobs[0].completions.size() > 1) {
      print_total(total, engine.statistics(), "samples", jobs[0].completions.size());
    } else {
      const Json s = stats_json(jobs[0]);
      std::fprintf(
          stderr,
          "[%d prompt tokens, %.0f/s; %d tokens, %.1f/s; %.2f tokens and %.2f rows per forward]\n",
          s["prompt_tokens"].get<int>(), s["prompt_tok_s"].get<double>(), s["tokens"].get<int>(),
          s["tok_s"].get<double>(), s["tokens_per_forward"].get<double>(),
          s["rows_per_forward"].get<double>());
      if (jobs[0].line.contexts) {
        std::fprintf(stderr, "[%zu contexts, %zu tokens, %d of them stored; %s]\n",
                     jobs[0].line.contexts->size(), jobs[0].line.options.passages.total(),
                     s["context_store_tokens"].get<int>(),
                     std::string(decode::name(jobs[0].line.options.passages.mode)).c_str());
        if (jobs[0].mass) print_mass(*jobs[0].mass, *jobs[0].line.contexts, o.contexts.contexts);
      }
      if (!o.prompt_cache.empty()) {
        std::fprintf(stderr, "[%d prompt tokens from %s]\n", s["prompt_cache_tokens"].get<int>(),
                     o.prompt_cache.c_str());
      }
    }
  }
  if (failed > 0) {
    throw Error(ErrorKind::kLimit, o.prompts + ": " + std::to_string(failed) + " of " +
                                       std::to_string(jobs.size()) +
                                       " prompts failed; their lines say why");
  }
}

}  // namespace

void add_run(CLI::App& app) {
  auto o = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "answer a prompt, or a file of prompts all at once");
  o->model.add_to(*command);
  o->sampling.add_to(*command);
  o->contexts.add_to(*command);
  CLI::Option* prompt = command->add_option("-p,--prompt", o->prompt,
                                            "the prompt, put through the model's chat template");
  CLI::Option* file =
      command->add_option("-f,--file", o->file, "read the prompt from a file; -: standard input");
  CLI::Option* lines =
      command->add_option("--prompts", o->prompts,
                          "a .jsonl file: {\"prompt\" | \"messages\", \"seed\", \"temp\", \"n\" "
                          "(tokens), \"method\" …} a line; all run in one "
                          "engine, one JSON line each, in order; -: standard input");
  command
      ->add_option("--parallel", o->parallel,
                   "lines of --prompts that are answered at a time (also -np); 0: all")
      ->check(CLI::Range(0, 1 << 20))
      ->needs(lines)
      ->capture_default_str();
  command
      ->add_option("--image", o->images,
                   "a PNG or JPEG file that the prompt is about, for models that read images; "
                   "again for each further one (also \"images\" in a line of --prompts)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  CLI::Option* system = command->add_option("--system", o->system, "system message (also -sys)");
  CLI::Option* cache = command->add_option(
      "--prompt-cache", o->prompt_cache,
      "a file that keeps the prompt's keys and values: what it shares with this prompt is not "
      "computed again, then it holds this prompt");
  command
      ->add_flag("--prompt-cache-ro", o->prompt_cache_read_only,
                 "use the prompt cache, do not change it")
      ->needs(cache);
  command->add_flag("--visual", o->trace.live,
                    "masked models: draw the answer on stderr as it fills in");
  command->add_option("--trace", o->trace.lines,
                      "masked models: a file for one JSON line per forward: what it wrote, where");
  command->add_option("--trace-page", o->trace.page,
                      "masked models: an HTML file that steps through the forwards");
  command->add_flag("--raw", o->raw, "take the text as it is, without the chat template")
      ->excludes(system);
  command->add_flag("--json", o->json, "one JSON document on stdout");
  o->draft.add_to(*command);
  o->grammar.add_to(*command);
  command->add_flag(
      "--verify-only", o->verify_only,
      "no text: run the method, then plain decoding, and fail at the first token that differs");
  command->callback([o, prompt, file, lines] {
    if ((prompt->count() > 0) + (file->count() > 0) + (lines->count() > 0) != 1) {
      throw Error(ErrorKind::kUsage,
                  "run: give exactly one of -p PROMPT, -f FILE and --prompts FILE.jsonl");
    }
    using From = RunOptions::From;
    o->from = prompt->count() ? From::kPrompt : file->count() ? From::kFile : From::kLines;
    run(*o);
  });
}

}  // namespace tutti::cli
