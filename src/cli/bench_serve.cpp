// tutti bench serve: load on any server with OpenAI's API, and what its clients see of it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/asio/signal_set.hpp>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>

#include "base/error.h"
#include "base/files.h"
#include "cli/bench_serve.h"
#include "cli/descriptor_limit.h"
#include "cli/json_text.h"
#include "cli/load_output.h"
#include "cli/progress_line.h"
#include "cli/relative_time.h"
#include "eval/load/answer_reader.h"
#include "eval/load/load_plan.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchServeOptions {
  std::string url, model, api = "chat", key;
  std::vector<int> clients{1, 4, 16, 32};
  std::vector<double> rates;
  std::string arrivals = "poisson";
  int burst = 8;
  int requests = 0;
  std::string prompt_tokens = "64-128", output_tokens = "96", long_prompt_tokens = "1024";
  std::string prompts;
  int shared_prefix = 0, prefixes = 1;
  double long_share = 0, cancel = 0, temperature = 0, timeout = 600;
  bool no_stream = false, eos = false;
  std::string extra = "{}";
  int lone = 4;
  std::string first_token_goal = "5x", per_token_goal = "2x", whole_goal;
  uint64_t seed = 1;
  bool json = false, quiet = false;
  std::string svg, records;
};

// Seeds of runs that must share no prompt, so that no cache of the server helps the later ones.
uint64_t seed_of_run(uint64_t seed, size_t run) { return seed + 1'000'003 * run; }

class ServerBench {
 public:
  explicit ServerBench(const BenchServeOptions& o)
      : o_(o),
        client_(io_, eval::parse_server_url(o.url), o.key, o.timeout),
        signals_(io_, SIGINT, SIGTERM),
        line_(o.quiet) {
    form_.chat = o.api == "chat";
    form_.stream = !o.no_stream;
    form_.temperature = o.temperature;
    try {
      form_.extra = parse_json(o.extra);
    } catch (const Error& e) {
      throw Error(ErrorKind::kUsage, std::string("--extra: ") + e.what());
    }
    if (!form_.extra.is_object())
      throw Error(ErrorKind::kUsage, "--extra: must be a JSON object, such as {\"top_k\": 1}");
    if (!o.prompts.empty()) {
      const auto output = eval::parse_between(o.output_tokens, "--output-tokens");
      // Once now, so that its mistakes are known before anything runs, and again with the model.
      eval::read_load(read_file(o.prompts), o.prompts, form_, output.high, !o.eos);
    } else if (o.arrivals == "trace") {
      throw Error(ErrorKind::kUsage, "--arrivals trace: wants --prompts FILE with \"arrival\"s");
    }
    arrivals();
    // The first signal ends the measurement, with a report of what there is; the second the
    // program.
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (error) return;
      client_.abandon();
      signals_.clear();
    });
  }

  void run() {
    find_model();
    find_tokenizer();
    measure_lone();
    LoadDocument document = describe();
    size_t number = 1;
    std::exception_ptr failure;  // finished levels are worth a report whatever ends a later one
    try {
      for (const double level : levels()) {
        if (!client_.abandoned()) document.levels.push_back(measure(level, number++));
      }
    } catch (const std::exception&) {
      failure = std::current_exception();
    }
    line_.clear();
    document.interrupted = client_.abandoned();
    if (failure && document.levels.empty()) std::rethrow_exception(failure);
    write(document);
    if (failure && !document.interrupted) std::rethrow_exception(failure);
    judge(document);
  }

 private:
  bool open_loop() const { return !o_.rates.empty() || o_.arrivals == "trace"; }

  std::vector<double> levels() const {
    if (o_.arrivals == "trace") return {0};
    if (open_loop()) return o_.rates;
    return {o_.clients.begin(), o_.clients.end()};
  }

  eval::ArrivalOptions arrivals() const {
    eval::ArrivalOptions a;
    a.prompt_tokens = eval::parse_between(o_.prompt_tokens, "--prompt-tokens");
    a.output_tokens = eval::parse_between(o_.output_tokens, "--output-tokens");
    a.long_prompt_tokens = eval::parse_between(o_.long_prompt_tokens, "--long-prompt-tokens");
    a.long_share = o_.long_share;
    a.ignore_eos = !o_.eos;
    a.burst = o_.burst;
    a.process = o_.arrivals == "constant" ? eval::ArrivalOptions::kConstant
                : o_.arrivals == "bursts" ? eval::ArrivalOptions::kBursts
                                          : eval::ArrivalOptions::kPoisson;
    return a;
  }

  std::string url(const std::string& path) const {
    return "http://" + client_.address().host_and_port() + client_.address().root + path;
  }

  void find_model() {
    const auto answer = client_.fetch({"GET", "/v1/models"});
    const std::string place = url("/v1/models");
    if (answer.status == 401 || answer.status == 403)
      throw Error(ErrorKind::kSystem, place + ": " + std::to_string(answer.status) + " (" +
                                          eval::error_message(answer.body) +
                                          "); give --api-key, or set TUTTI_API_KEY");
    form_.model = o_.model;
    if (!form_.model.empty()) return;
    if (answer.status != 200)
      throw Error(ErrorKind::kSystem,
                  place + ": status " + std::to_string(answer.status) +
                      "; is this a server with OpenAI's API? --model NAME goes without a list");
    try {
      form_.model = Json::parse(answer.body).at("data").at(0).at("id").get<std::string>();
    } catch (const Json::exception&) {
      throw Error(
          ErrorKind::kSystem,
          place + ": lists no model (" + eval::error_message(answer.body) + "); give --model NAME");
    }
  }

  // llama.cpp, vLLM and Tutti count tokens at /tokenize.
  void find_tokenizer() {
    if (count_tokens("time year people") >= 1)
      count_ = [this](const std::string& text) { return count_tokens(text); };
  }

  // Negative: the server does not say.
  int count_tokens(const std::string& text) {
    const Json body{{"model", form_.model},
                    {"content", text},
                    {"prompt", text},
                    {"add_special", false},
                    {"add_special_tokens", false}};
    const auto answer = client_.fetch({"POST", "/tokenize", print_json(body)});
    if (answer.status != 200) return -1;
    const Json json = Json::parse(answer.body, nullptr, false);
    if (!json.is_object() || !json.contains("tokens") || !json["tokens"].is_array()) return -1;
    return int(json["tokens"].size());
  }

  std::vector<eval::LoadRequest> requests(eval::ArrivalOptions a) {
    if (o_.prompts.empty()) {
      eval::LoadPlanOptions plan;
      plan.arrivals = a;
      plan.shared_prefix_tokens = o_.shared_prefix;
      plan.prefixes = o_.prefixes;
      return eval::make_load(plan, form_, count_);
    }
    std::vector<eval::LoadRequest> lines =
        eval::read_load(read_file(o_.prompts), o_.prompts, form_, a.output_tokens.high, !o_.eos);
    if (o_.arrivals == "trace") {
      std::ranges::stable_sort(lines, {}, &eval::LoadRequest::arrival);
      return lines;
    }
    // Its prompts in turn, at the times of a drawn trace.
    const eval::Trace times = eval::make_trace(a, 1);
    std::vector<eval::LoadRequest> chosen;
    for (size_t i = 0; i < times.size(); ++i) {
      chosen.push_back(lines[i % lines.size()]);
      chosen.back().arrival = times[i].arrival;
      if (times[i].cancel_after >= 0) chosen.back().cancel_after = times[i].cancel_after;
    }
    return chosen;
  }

  eval::LoadRun play(const std::vector<eval::LoadRequest>& requests, int clients,
                     const std::string& what) {
    eval::LoadOptions options;
    options.path = form_.chat ? "/v1/chat/completions" : "/v1/completions";
    options.stream = form_.stream;
    options.clients = clients;
    options.on_progress = [&, total = requests.size()](size_t ended, size_t in_flight) {
      if (line_.due())
        line_.show(what + ": " + std::to_string(ended) + " of " + std::to_string(total) +
                   " requests, " + std::to_string(in_flight) + " in flight");
    };
    return eval::run_load(io_, client_, requests, options);
  }

  // One request after the other: what the server gives a client that has it alone.
  void measure_lone() {
    const double any = std::numeric_limits<double>::infinity();
    goals_.fill({any, any, any});
    for (const bool is_long : {false, true}) {
      if (is_long && o_.long_share == 0) continue;
      eval::ArrivalOptions a = arrivals();
      a.requests = o_.lone;
      a.long_share = is_long ? 1 : 0;
      a.seed = seed_of_run(o_.seed, is_long ? 900'001 : 900'000);
      std::vector<eval::LoadRequest> load = requests(a);
      if (load.size() > size_t(o_.lone)) load.resize(size_t(o_.lone));
      for (eval::LoadRequest& r : load) r.cancel_after = -1;
      const eval::LoadRun run = play(load, 1, is_long ? "a lone client, long" : "a lone client");
      eval::LoadSummary& s = is_long ? lone_long_ : lone_;
      s = eval::summarise(run, goals_);
      if (client_.abandoned()) throw Error(ErrorKind::kCancelled, "interrupted");
      if (s.completed == 0) throw nothing_answered(s);
      eval::LoadGoals& goals = goals_[is_long ? 1 : 0];
      if (form_.stream) {
        goals.first_token = seconds_of(o_.first_token_goal, "--slo-ttft", s.first_token.median);
        goals.per_token = seconds_of(o_.per_token_goal, "--slo-tpot", s.per_token.median);
      }
      if (!o_.whole_goal.empty())
        goals.whole = seconds_of(o_.whole_goal, "--slo-e2e", s.whole.median);
    }
  }

  Error nothing_answered(const eval::LoadSummary& s) const {
    std::string why = "no request was answered";
    for (const auto& [kind, failure] : s.failures) {
      why += "; " + std::to_string(failure.count) + " × " + kind +
             (failure.message.empty() ? "" : " (" + failure.message + ")");
    }
    return {ErrorKind::kSystem,
            url(form_.chat ? "/v1/chat/completions" : "/v1/completions") + ": " + why};
  }

  LoadLevel measure(double level, size_t number) {
    eval::ArrivalOptions a = arrivals();
    a.seed = seed_of_run(o_.seed, number);
    a.cancelled_share = o_.cancel;
    a.cancel_within = 2 * lone_.whole.median;
    LoadLevel done;
    done.level = level;
    int clients = 0;
    if (open_loop()) {
      a.requests = o_.requests > 0 ? o_.requests : 64;
      if (level > 0) a.interval = 1 / level;
    } else {
      clients = int(level);
      a.requests = o_.requests > 0 ? o_.requests : std::max(8, 4 * clients);
    }
    char what[64];
    std::snprintf(what, sizeof what, open_loop() ? "%g requests/s" : "%g clients", level);
    done.run = play(requests(a), clients, what);
    done.all = eval::summarise(done.run, goals_);
    if (o_.long_share > 0) {
      done.groups.emplace_back("short prompts",
                               eval::summarise(done.run, goals_, eval::LoadGroup::kShort));
      done.groups.emplace_back("long prompts",
                               eval::summarise(done.run, goals_, eval::LoadGroup::kLong));
    }
    return done;
  }

  LoadDocument describe() const {
    LoadDocument d;
    d.about = {{"url", url(form_.chat ? "/v1/chat/completions" : "/v1/completions")},
               {"model", form_.model},
               {"stream", form_.stream},
               {"loop", open_loop() ? "open" : "closed"},
               {"arrivals", open_loop() ? o_.arrivals : ""},
               {"prompts", o_.prompts.empty() ? "synthetic" : o_.prompts},
               {"prompt_tokens", o_.prompt_tokens},
               {"output_tokens", o_.output_tokens},
               {"tokens_counted_at_server", bool(count_)},
               {"shared_prefix_tokens", o_.shared_prefix},
               {"prefixes", o_.prefixes},
               {"long_share", o_.long_share},
               {"cancelled_share", o_.cancel},
               {"temperature", o_.temperature},
               {"extra", form_.extra},
               {"seed", o_.seed}};
    d.open_loop = open_loop();
    d.streams = form_.stream;
    d.lone = lone_;
    d.lone_long = lone_long_;
    d.goals = goals_;
    return d;
  }

  void write(const LoadDocument& document) const {
    if (!o_.records.empty()) write_file_atomically(o_.records, load_records(document));
    if (!o_.svg.empty()) {
      write_file_atomically(o_.svg + ".throughput.svg", load_throughput_plot(document));
      if (document.streams)
        write_file_atomically(o_.svg + ".latency.svg", load_latency_plot(document));
    }
    if (o_.json) {
      std::cout << print_json(load_json(document)) << '\n';
    } else {
      print_load(document);
    }
  }

  void judge(const LoadDocument& document) const {
    size_t completed = 0;
    for (const LoadLevel& level : document.levels) completed += level.all.completed;
    if (document.interrupted)
      throw Error(ErrorKind::kCancelled, "interrupted; the numbers are of what had ended");
    if (completed == 0) throw nothing_answered(document.levels.back().all);
  }

  const BenchServeOptions& o_;
  boost::asio::io_context io_{1};
  eval::HttpClient client_;
  boost::asio::signal_set signals_;
  ProgressLine line_;
  eval::LoadForm form_;
  eval::CountTokens count_;
  eval::LoadSummary lone_, lone_long_;
  std::array<eval::LoadGoals, 2> goals_;
};

void check(const BenchServeOptions& o) {
  if (o.clients.empty()) throw Error(ErrorKind::kUsage, "--clients: at least one number");
  for (const int c : o.clients) {
    if (c < 1 || c > 65536)
      throw Error(ErrorKind::kUsage, "--clients " + std::to_string(c) + ": from 1 to 65536");
  }
  for (const double r : o.rates) {
    if (!(r > 0) || r > 1e6) throw Error(ErrorKind::kUsage, "--rate: above 0, at most 1e6");
  }
}

}  // namespace

void add_bench_serve(CLI::App& bench) {
  auto o = std::make_shared<BenchServeOptions>();
  CLI::App* command = bench.add_subcommand(
      "serve", "load on a server with OpenAI's API: what its clients see, at several levels");
  command->add_option("url", o->url, "such as http://127.0.0.1:8080")->required();
  command->add_option("--model", o->model, "name of the model (default: the first of /v1/models)");
  command->add_option("--api", o->api, "chat or completions")
      ->check(CLI::IsMember({"chat", "completions"}))
      ->capture_default_str();
  command->add_option("--api-key", o->key, "sent as Authorization: Bearer")
      ->envname("TUTTI_API_KEY");
  auto* clients =
      command
          ->add_option("--clients", o->clients,
                       "closed loop: so many clients, each sends its next request when it has an "
                       "answer; separated by commas, one measurement each")
          ->delimiter(',')
          ->default_str("1,4,16,32");
  auto* rate = command
                   ->add_option("--rate", o->rates,
                                "open loop: requests a second, whatever the server does; separated "
                                "by commas, one measurement each")
                   ->delimiter(',')
                   ->excludes(clients);
  command
      ->add_option("--arrivals", o->arrivals,
                   "of an open loop: poisson, constant, bursts, or trace (the times in --prompts)")
      ->check(CLI::IsMember({"poisson", "constant", "bursts", "trace"}))
      ->capture_default_str();
  command->add_option("--burst", o->burst, "requests of a burst")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command
      ->add_option("--requests", o->requests,
                   "of each measurement; 0: four a client, at least 8; 64 in an open loop")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  command
      ->add_option("--prompt-tokens", o->prompt_tokens,
                   "N or LOW-HIGH; words, unless the server counts tokens at /tokenize")
      ->capture_default_str();
  command->add_option("--output-tokens", o->output_tokens, "N or LOW-HIGH")->capture_default_str();
  command->add_option("--prompts", o->prompts,
                      "a file of requests instead, one JSON object a line: prompt or messages, "
                      "output_tokens, ignore_eos, arrival, cancel_after, extra");
  command->add_option("--shared-prefix", o->shared_prefix, "tokens that prompts begin with alike")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--prefixes", o->prefixes, "different ones of those, by turns")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--long-share", o->long_share, "share of requests with long prompts")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--long-prompt-tokens", o->long_prompt_tokens, "N or LOW-HIGH of those")
      ->capture_default_str();
  command
      ->add_option("--cancel", o->cancel,
                   "share of requests whose client goes away within twice a lone request's time")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--no-stream", o->no_stream, "ask for whole answers");
  command->add_flag("--eos", o->eos, "let end tokens end answers");
  command->add_option("--temp", o->temperature, "temperature; 0: greedy")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  command->add_option("--extra", o->extra,
                      "a JSON object, merged into every body, such as {\"method\": \"lookup\"}");
  command->add_option("--lone", o->lone, "requests of the lone client that goes first")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command
      ->add_option("--slo-ttft", o->first_token_goal,
                   "goal: time to the first text, in seconds or as multiple of a lone client's")
      ->capture_default_str();
  command->add_option("--slo-tpot", o->per_token_goal, "goal: time per further token, likewise")
      ->capture_default_str();
  command->add_option("--slo-e2e", o->whole_goal, "goal: time of a whole answer, likewise");
  command->add_option("--timeout", o->timeout, "seconds that an answer may take")
      ->check(CLI::Range(1e-3, 1e6))
      ->capture_default_str();
  command->add_option("-s,--seed", o->seed, "of prompts, lengths and times")->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write PREFIX.throughput.svg and PREFIX.latency.svg");
  command->add_option("--records", o->records, "write a JSON line per request");
  command->add_flag("-q,--quiet", o->quiet, "no progress on stderr");
  command->callback([o, rate] {
    check(*o);
    if (o->arrivals == "trace" && rate->count() > 0)
      throw Error(ErrorKind::kUsage, "--arrivals trace: the file has the times; leave out --rate");
    raise_descriptor_limit();
    ServerBench(*o).run();
  });
}

}  // namespace tutti::cli
