// tutti run: one prompt, or a file of prompts all at once.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/sampling_options.h"
#include "cli/session.h"
#include "decode/method.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct RunOptions {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt;
  std::string file;
  std::string system;
  std::string prompts;
  std::string prompt_cache;
  bool prompt_cache_read_only = false;
  bool raw = false;
  bool json = false;
};

// One request of a run and what became of it.
struct Job {
  std::vector<int32_t> prompt;
  decode::GenerationOptions options;
  bool alternatives = false;  // n > 1: the line carries "choices"
  std::shared_ptr<engine::Request> request;
  std::vector<decode::Completion> completions;
  std::exception_ptr error;
  Clock::time_point start, first, end;
  bool streaming = false;
};

Json logprobs_json(const decode::Completion& c, const text::Tokenizer& tokenizer) {
  Json list = Json::array();
  for (const auto& picked : c.picked) {
    Json top = Json::array();
    for (const auto& t : picked.top) {
      top.push_back({{"id", t.token}, {"text", tokenizer.decode(std::span(&t.token, 1))}, {"logprob", t.log_probability}});
    }
    list.push_back({{"id", picked.token}, {"logprob", picked.raw_log_probability}, {"top", std::move(top)}});
  }
  return list;
}

Json stats_json(const Job& job) {
  const auto& s = job.request->statistics;
  size_t tokens = 0;
  for (const auto& c : job.completions) tokens += c.ids.size();
  const double prompt_seconds = std::chrono::duration<double>(job.first - job.start).count();
  const double decode_seconds = std::chrono::duration<double>(job.end - job.first).count();
  const size_t later = tokens > job.completions.size() ? tokens - job.completions.size() : 0;
  return {{"prompt_tokens", s.prompt_tokens},
          {"cached_tokens", s.cached_tokens},
          {"prompt_cache_tokens", s.loaded_tokens},
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
}

Json job_json(const Job& job, const text::Tokenizer& tokenizer) {
  const auto one = [&](const decode::Completion& c) {
    Json j{{"text", c.text}, {"ids", c.ids}, {"finish_reason", decode::name(c.finish)}};
    if (!c.picked.empty()) j["logprobs"] = logprobs_json(c, tokenizer);
    return j;
  };
  Json j = one(job.completions.front());
  j["prompt_ids"] = job.prompt;
  if (job.alternatives) {
    Json choices = Json::array();
    for (const auto& c : job.completions) choices.push_back(one(c));
    j["choices"] = std::move(choices);
  }
  j["stats"] = stats_json(job);
  return j;
}

std::vector<int32_t> encode(const Session& session, const RunOptions& o, const std::string& prompt) {
  if (o.raw || !session.has_chat_template()) return session.encode_raw(prompt);
  Json messages = Json::array();
  if (!o.system.empty()) messages.push_back({{"role", "system"}, {"content", o.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return session.encode_chat(messages);
}

// A line of a --prompts file: what it names goes over the command line's options.
Job read_job(const Session& session, const RunOptions& o, const std::string& line, size_t number) {
  const std::string place = o.prompts + ", line " + std::to_string(number) + ": ";
  Job job;
  job.options = o.sampling.resolve();
  try {
    const Json j = Json::parse(line);
    if (j.contains("messages")) {
      job.prompt = session.encode_chat(j.at("messages"));
    } else if (j.contains("prompt")) {
      job.prompt = encode(session, o, j.at("prompt").get<std::string>());
    } else {
      throw Error(ErrorKind::kUsage, place + "has neither \"prompt\" nor \"messages\"");
    }
    if (j.contains("seed")) job.options.seed = j.at("seed").get<uint64_t>();
    if (j.contains("temp")) job.options.sampling.temperature = j.at("temp").get<float>();
    if (j.contains("temperature")) job.options.sampling.temperature = j.at("temperature").get<float>();
    if (j.contains("top_p")) job.options.sampling.top_p = j.at("top_p").get<float>();
    if (j.contains("top_k")) job.options.sampling.top_k = j.at("top_k").get<int>();
    if (j.contains("max_tokens")) job.options.max_tokens = j.at("max_tokens").get<int>();
    // As on the command line, n is the number of tokens.
    if (j.contains("n")) job.options.max_tokens = j.at("n").get<int>();
    if (j.contains("samples")) job.options.n = j.at("samples").get<int>();
    if (j.contains("stop")) job.options.stop = j.at("stop").get<std::vector<std::string>>();
    if (j.contains("method")) job.options.method = j.at("method").get<std::string>();
    if (j.contains("options")) {
      for (const auto& [key, value] : j.at("options").items()) {
        job.options.method_options[key] = value.is_string() ? value.get<std::string>() : value.dump();
      }
    }
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::kUsage, place + error.what());
  }
  job.alternatives = job.options.n > 1;
  return job;
}

void run(const RunOptions& o) {
  if (o.prompt.empty() + o.file.empty() + o.prompts.empty() != 2) {
    throw Error(ErrorKind::kUsage, "run: give exactly one of -p PROMPT, -f FILE and --prompts FILE.jsonl");
  }
  if (!o.prompt_cache.empty() && !o.prompts.empty()) {
    throw Error(ErrorKind::kUsage, "run: --prompt-cache holds one prompt; use it with -p or -f, not with --prompts");
  }
  Session session(o.model);
  const text::Tokenizer& tokenizer = session.tokenizer();
  if (!o.raw && !session.has_chat_template() && !o.model.quiet) {
    std::fprintf(stderr, "note: %s has no chat template (a base model); the prompt is taken as it is\n",
                 o.model.model.c_str());
  }
  std::vector<Job> jobs;
  if (o.prompts.empty()) {
    Job job;
    job.options = o.sampling.resolve();
    job.alternatives = job.options.n > 1;
    job.prompt = encode(session, o, o.file.empty() ? o.prompt : read_file(o.file));
    job.options.prompt_cache = o.prompt_cache;
    job.options.prompt_cache_read_only = o.prompt_cache_read_only;
    job.streaming = !o.json && job.options.n == 1;
    jobs.push_back(std::move(job));
  } else {
    std::istringstream in(read_file(o.prompts));
    size_t number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      if (!line.empty()) jobs.push_back(read_job(session, o, line, number));
    }
  }
  engine::Engine& engine = session.engine();
  for (Job& job : jobs) {
    job.request = engine.new_request();
    job.start = Clock::now();
    job.first = job.start;
    engine.spawn(
        job.request,
        [&]() -> Task<void> {
          job.completions = co_await decode::generate(
              engine, tokenizer, job.request, job.prompt, job.options, [&job](const decode::Piece& piece) {
                if (job.first == job.start) job.first = Clock::now();
                if (!job.streaming) return;
                std::fwrite(piece.text.data(), 1, piece.text.size(), stdout);
                std::fflush(stdout);
              });
          job.end = Clock::now();
        },
        [&job](std::exception_ptr error) { job.error = error; });
  }
  engine.run();

  for (const Job& job : jobs) {
    if (job.error && jobs.size() == 1) std::rethrow_exception(job.error);
    if (job.error) {
      // Other lines of the file still count: the failed one says why in its place.
      try {
        std::rethrow_exception(job.error);
      } catch (const std::exception& error) {
        std::cout << Json{{"error", error.what()}}.dump() << '\n';
      }
    } else if (o.json || !o.prompts.empty()) {
      std::cout << job_json(job, tokenizer).dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    } else if (job.streaming) {
      std::cout << '\n';
    } else {
      for (size_t i = 0; i < job.completions.size(); ++i) {
        std::cout << "--- " << i + 1 << " ---\n" << job.completions[i].text << '\n';
      }
    }
    if (!job.error && !o.json && o.prompts.empty() && !o.model.quiet) {
      const Json s = stats_json(job);
      std::fprintf(stderr, "[%d prompt tokens, %.0f/s; %d tokens, %.1f/s; %.2f tokens and %.2f rows per forward]\n",
                   s["prompt_tokens"].get<int>(), s["prompt_tok_s"].get<double>(), s["tokens"].get<int>(),
                   s["tok_s"].get<double>(), s["tokens_per_forward"].get<double>(),
                   s["rows_per_forward"].get<double>());
      if (!o.prompt_cache.empty()) {
        std::fprintf(stderr, "[%d prompt tokens from %s]\n", s["prompt_cache_tokens"].get<int>(),
                     o.prompt_cache.c_str());
      }
    }
  }
  std::cout.flush();
  for (const Job& job : jobs) {
    if (job.error) throw Error(ErrorKind::kLimit, "run: at least one prompt failed; its line says why");
  }
}

}  // namespace

void add_run(CLI::App& app) {
  auto o = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "answer a prompt, or a file of prompts all at once");
  o->model.add_to(*command);
  o->sampling.add_to(*command);
  command->add_option("-p,--prompt", o->prompt, "the prompt, put through the model's chat template");
  command->add_option("-f,--file", o->file, "read the prompt from a file");
  command->add_option("--prompts", o->prompts,
                      "a .jsonl file: {\"prompt\" | \"messages\", \"seed\", \"temp\", \"n\", \"method\" …} a line; all run "
                      "in one engine, one JSON line each, in order");
  command->add_option("--system", o->system, "system message");
  CLI::Option* cache =
      command->add_option("--prompt-cache", o->prompt_cache,
                          "a file that keeps the prompt's keys and values: what it shares with this prompt is not "
                          "computed again, then it holds this prompt");
  command->add_flag("--prompt-cache-ro", o->prompt_cache_read_only, "use the prompt cache, do not change it")
      ->needs(cache);
  command->add_flag("--raw", o->raw, "take the text as it is, without the chat template");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { run(*o); });
}

}  // namespace tutti::cli
