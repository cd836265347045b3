// tutti traffic: a trace of requests under several schedulers, side by side.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/relative_time.h"
#include "cli/session.h"
#include "eval/distribution.h"
#include "eval/plot.h"
#include "eval/traffic/schedule_oracle.h"
#include "eval/traffic/tick_cost.h"
#include "eval/traffic/traffic.h"
#include "tensor/kernels.h"

namespace tutti::cli {
namespace {

using eval::mean;
using eval::quantile;
using Json = nlohmann::ordered_json;

constexpr int kMostMeasuredKeys = 2048;

struct TrafficCommand {
  ModelOptions model;
  std::vector<std::string> schedulers{"fused", "dynamic-batch", "instances"};
  std::vector<std::string> layouts{"paged", "contiguous"};
  std::vector<std::string> shuffles{"on", "off"};
  std::string admission = "fcfs";
  int requests = 32;
  std::string interval, poisson, trace;
  std::string prompt_tokens = "16", output_tokens = "128", window = "0.5x";
  double sampled = 0, cancel = 0;
  bool eos = false;
  uint64_t seed = 1;
  int concurrency = 32, slot_tokens = 0, queue = 0, prompt_rows = 512, repeats = 1;
  std::string csv, ticks_csv, svg;
  bool json = false;
};

// One line of the table: a scheduler and what was measured under it.
struct Line {
  std::string label;
  eval::TrafficOptions options;
  std::vector<eval::TrafficResult> results;  // of each repeat
  double forecast_seconds = 0;
  size_t chosen = 0;  // the repeat of median time, which is reported

  const eval::TrafficResult& result() const { return results[chosen]; }
};

eval::Shuffle shuffle_of(const std::string& text) {
  return text == "on"    ? eval::Shuffle::kOn
         : text == "off" ? eval::Shuffle::kOff
                         : eval::Shuffle::kAuto;
}

std::vector<Line> lines_of(const TrafficCommand& o) {
  std::vector<Line> lines;
  const auto add = [&](std::string label) -> eval::TrafficOptions& {
    lines.emplace_back();
    lines.back().label = std::move(label);
    return lines.back().options;
  };
  for (const std::string& scheduler : o.schedulers) {
    if (scheduler == "dynamic-batch") {
      add(scheduler).scheduler = eval::Scheduler::kDynamicBatch;
    } else if (scheduler == "instances") {
      add(scheduler).scheduler = eval::Scheduler::kInstances;
    }
    for (const std::string& layout : o.layouts) {
      if (scheduler != "fused") break;
      if (layout == "paged") {
        add("fused, paged");
        continue;
      }
      for (const std::string& shuffle : o.shuffles) {
        eval::TrafficOptions& options = add("fused, contiguous, shuffle " + shuffle);
        options.layout = eval::Layout::kContiguous;
        options.shuffle = shuffle_of(shuffle);
      }
    }
  }
  for (Line& line : lines) {
    line.options.admission =
        o.admission == "fcfs" ? eval::Admission::kFirstCome : eval::Admission::kShortestPrompt;
    line.options.concurrency = o.concurrency;
    line.options.slot_tokens = o.slot_tokens;
    line.options.queue = o.queue;
    line.options.prompt_rows = o.prompt_rows;
  }
  return lines;
}

eval::ArrivalOptions arrivals_of(const TrafficCommand& o) {
  eval::ArrivalOptions a;
  a.requests = o.requests;
  a.prompt_tokens = eval::parse_between(o.prompt_tokens, "--prompt-tokens");
  a.output_tokens = eval::parse_between(o.output_tokens, "--output-tokens");
  a.sampled_share = o.sampled;
  a.cancelled_share = o.cancel;
  a.ignore_eos = !o.eos;
  a.seed = o.seed;
  return a;
}

// What a request's latency is held against: itself, alone on the machine.
class Alone {
 public:
  explicit Alone(const eval::TickCost& cost) : cost_(cost) {}
  double seconds(int prompt, int tokens) const {
    eval::TrafficOptions options;
    options.concurrency = 1;
    eval::ForecastRequest request;
    request.prompt = prompt;
    request.tokens = tokens;
    return eval::forecast_schedule({request}, options, cost_).seconds;
  }

 private:
  eval::TickCost cost_;
};

struct Latencies {
  std::vector<double> seconds, first, inflation;  // of finished requests
};

Latencies latencies_of(const eval::Trace& trace, const eval::TrafficResult& result,
                       const Alone& alone) {
  Latencies l;
  for (size_t i = 0; i < trace.size(); ++i) {
    const eval::RequestRecord& r = result.requests[i];
    if (r.outcome != eval::RequestRecord::kFinished) continue;
    l.seconds.push_back(r.end - r.arrival);
    l.first.push_back(r.first_token - r.arrival);
    l.inflation.push_back((r.end - r.arrival) /
                          alone.seconds(int(trace[i].prompt.size()), int(r.tokens.size())));
  }
  return l;
}

// The bar of requests in flight, an iteration a line in time: who was added, who has ended.
class LiveView {
 public:
  explicit LiveView(bool quiet) : line_(quiet) {}
  void show(const std::string& label, const eval::TickRecord& tick) {
    for (const int id : tick.added) added_ = id;
    for (const int id : tick.ended) ended_ = id;
    if (!line_.due()) return;
    std::string text = label + "  [" + std::string(size_t(std::min(tick.in_flight, kWidth)), '=') +
                       "] " + std::to_string(tick.in_flight) + " in flight, " +
                       std::to_string(tick.waiting) + " waiting, " + std::to_string(tick.rows) +
                       " rows";
    if (tick.dead_rows > 0) text += " (" + std::to_string(tick.dead_rows) + " dead)";
    if (added_ >= 0) text += ", request " + std::to_string(added_) + " added";
    if (ended_ >= 0) text += ", request " + std::to_string(ended_) + " finished";
    line_.show(text);
  }
  ProgressLine& line() { return line_; }

 private:
  static constexpr int kWidth = 40;
  ProgressLine line_;
  int added_ = -1, ended_ = -1;
};

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", x);
  return text;
}

// A name with the commas of labels would break a line of CSV.
std::string quoted(const std::string& text) { return '"' + text + '"'; }

std::string requests_csv(const std::vector<Line>& lines, const eval::Trace& trace,
                         const Alone& alone) {
  std::string out =
      "scheduler,request,outcome,arrival,admitted,first_token,end,prompt_tokens,tokens,alone,"
      "reason\n";
  for (const Line& line : lines) {
    for (size_t i = 0; i < trace.size(); ++i) {
      const auto& r = line.result().requests[i];
      out +=
          quoted(line.label) + ',' + std::to_string(i) + ',' + std::string(eval::name(r.outcome));
      for (const double t : {r.arrival, r.admitted, r.first_token, r.end})
        out += ',' + (t < 0 ? "" : number(t));
      out += ',' + std::to_string(trace[i].prompt.size()) + ',' + std::to_string(r.tokens.size()) +
             ',';
      if (!r.tokens.empty())
        out += number(alone.seconds(int(trace[i].prompt.size()), int(r.tokens.size())));
      out += ',' + (r.reason.empty() ? "" : quoted(r.reason)) + '\n';
    }
  }
  return out;
}

std::string ticks_csv(const std::vector<Line>& lines) {
  std::string out =
      "scheduler,iteration,end,in_flight,waiting,rows,dead_rows,tokens,pages,moved_bytes,added,"
      "ended\n";
  for (const Line& line : lines) {
    for (size_t k = 0; k < line.result().ticks.size(); ++k) {
      const auto& t = line.result().ticks[k];
      out += quoted(line.label) + ',' + std::to_string(k) + ',' + number(t.end);
      for (const int x : {t.in_flight, t.waiting, t.rows, t.dead_rows, t.tokens, t.pages})
        out += ',' + std::to_string(x);
      out += ',' + std::to_string(t.moved_bytes);
      for (const auto* ids : {&t.added, &t.ended}) {
        out += ',';
        for (size_t i = 0; i < ids->size(); ++i)
          out += (i > 0 ? " " : "") + std::to_string((*ids)[i]);
      }
      out += '\n';
    }
  }
  return out;
}

// Four plots, PREFIX.progress.svg and so on.
void write_plots(const std::string& prefix, const std::vector<Line>& lines,
                 const eval::Trace& trace, const Alone& alone) {
  using Points = std::vector<std::pair<double, double>>;
  eval::Plot progress("tokens written", "seconds", "share of all tokens");
  eval::Plot staircase("requests finished", "seconds", "requests");
  eval::Plot flight("in flight", "iteration", "requests");
  eval::Plot latency("latency, requests sorted", "request", "seconds");
  eval::Plot speed("throughput by concurrency", "requests in flight", "tokens per second");
  for (auto* plot : {&progress, &staircase, &flight, &latency, &speed}) plot->set_log_x(false);
  Points lone;
  for (const Line& line : lines) {
    const auto& result = line.result();
    Points tokens{{0, 0}}, finished{{0, 0}}, in_flight, sorted, speeds;
    double sum = 0, last = 0;
    std::vector<std::pair<double, double>> by_flight(size_t(line.options.concurrency) +
                                                     1);  // tokens, seconds
    for (size_t k = 0; k < result.ticks.size(); ++k) {
      const auto& t = result.ticks[k];
      sum += t.tokens;
      tokens.emplace_back(t.end, sum / double(std::max<uint64_t>(1, result.tokens)));
      in_flight.emplace_back(double(k), t.in_flight);
      auto& at = by_flight[size_t(std::min(t.in_flight, line.options.concurrency))];
      // Idle time before a request that came alone is no iteration's.
      if (k > 0 && result.ticks[k - 1].in_flight > int(result.ticks[k - 1].ended.size())) {
        at.first += t.tokens;
        at.second += t.end - last;
      }
      last = t.end;
    }
    for (size_t n = 1; n < by_flight.size(); ++n) {
      if (by_flight[n].second > 0)
        speeds.emplace_back(double(n), by_flight[n].first / by_flight[n].second);
    }
    std::vector<double> ends;
    for (const auto& r : result.requests) {
      if (r.outcome == eval::RequestRecord::kFinished) ends.push_back(r.end);
    }
    std::sort(ends.begin(), ends.end());
    for (size_t i = 0; i < ends.size(); ++i) {
      finished.emplace_back(ends[i], double(i));
      finished.emplace_back(ends[i], double(i + 1));
    }
    std::vector<double> seconds = latencies_of(trace, result, alone).seconds;
    std::sort(seconds.begin(), seconds.end());
    for (size_t i = 0; i < seconds.size(); ++i) sorted.emplace_back(double(i), seconds[i]);
    progress.add_line(line.label, std::move(tokens));
    staircase.add_line(line.label, std::move(finished));
    flight.add_line(line.label, std::move(in_flight));
    latency.add_line(line.label, std::move(sorted));
    speed.add_line(line.label, std::move(speeds));
  }
  std::vector<double> alone_seconds;
  for (const auto& r : trace)
    alone_seconds.push_back(alone.seconds(int(r.prompt.size()), r.output_tokens));
  std::sort(alone_seconds.begin(), alone_seconds.end());
  for (size_t i = 0; i < alone_seconds.size(); ++i) lone.emplace_back(double(i), alone_seconds[i]);
  latency.add_line("alone", std::move(lone));
  write_file_atomically(prefix + ".progress.svg", progress.svg());
  write_file_atomically(prefix + ".finished.svg", staircase.svg());
  write_file_atomically(prefix + ".in-flight.svg", flight.svg());
  write_file_atomically(prefix + ".latency.svg", latency.svg());
  write_file_atomically(prefix + ".throughput.svg", speed.svg());
}

Json json_of(const Line& line, const eval::Trace& trace, const Alone& alone, double span) {
  const auto& result = line.result();
  const Latencies l = latencies_of(trace, result, alone);
  std::vector<double> times;
  for (const auto& r : line.results) times.push_back(r.seconds);
  Json requests = Json::array();
  for (size_t i = 0; i < trace.size(); ++i) {
    const auto& r = result.requests[i];
    Json j{{"outcome", eval::name(r.outcome)}, {"arrival", r.arrival}};
    if (r.admitted >= 0) j["admitted"] = r.admitted;
    if (r.first_token >= 0) j["first_token"] = r.first_token;
    j["end"] = r.end;
    j["ids"] = r.tokens;
    if (!r.reason.empty()) j["reason"] = r.reason;
    requests.push_back(std::move(j));
  }
  Json in_flight = Json::array();
  for (const auto& t : result.ticks) in_flight.push_back(t.in_flight);
  return Json{{"label", line.label},
              {"scheduler", eval::name(line.options.scheduler)},
              {"layout", eval::name(line.options.layout)},
              {"shuffle", eval::name(line.options.shuffle)},
              {"seconds", result.seconds},
              {"all_seconds", times},
              {"forecast_seconds", line.forecast_seconds},
              {"arrival_span", span},
              {"tok_s", double(result.tokens) / result.seconds},
              {"iterations", result.ticks.size()},
              {"mean_in_flight", result.mean_in_flight()},
              {"tokens", result.tokens},
              {"rows", result.rows},
              {"dead_rows", result.dead_rows},
              {"moved_bytes", result.moved_bytes},
              {"shuffles", result.shuffles},
              {"finished", result.finished},
              {"cancelled", result.cancelled},
              {"refused", result.refused},
              {"latency",
               {{"mean", mean(l.seconds)},
                {"p50", quantile(l.seconds, 0.5)},
                {"p99", quantile(l.seconds, 0.99)}}},
              {"first_token",
               {{"mean", mean(l.first)},
                {"p50", quantile(l.first, 0.5)},
                {"p99", quantile(l.first, 0.99)}}},
              {"inflation", mean(l.inflation)},
              {"in_flight", std::move(in_flight)},
              {"requests", std::move(requests)}};
}

void print_table(const std::vector<Line>& lines, const eval::Trace& trace, const Alone& alone) {
  std::printf("\n  %-34s %8s %8s %8s   %-23s %9s %9s %6s %8s %9s\n", "", "seconds", "oracle",
              "tok/s", "latency mean p50 p99", "inflation", "in flight", "ticks", "dead",
              "moved MB");
  for (const Line& line : lines) {
    const auto& r = line.result();
    const Latencies l = latencies_of(trace, r, alone);
    std::printf(
        "  %-34s %8.2f %7.0f%% %8.1f   %6.2f %7.2f %7.2f   %8.2fx %9.1f %6zu %7.1f%% %9.1f\n",
        line.label.c_str(), r.seconds, 100 * line.forecast_seconds / r.seconds,
        double(r.tokens) / r.seconds, mean(l.seconds), quantile(l.seconds, 0.5),
        quantile(l.seconds, 0.99), mean(l.inflation), r.mean_in_flight(), r.ticks.size(),
        r.rows > 0 ? 100 * double(r.dead_rows) / double(r.rows) : 0, double(r.moved_bytes) / 1e6);
    if (r.cancelled + r.refused > 0) {
      std::printf("  %34s   %d finished, %d cancelled, %d refused\n", "", r.finished, r.cancelled,
                  r.refused);
    }
  }
}

void traffic(const TrafficCommand& o) {
  // Prompts must not be found in a cache by the second scheduler that sees them.
  engine::EngineOptions engine_options;
  engine_options.prefix_cache = false;
  engine_options.max_prompt_rows = o.prompt_rows;
  eval::ArrivalOptions arrivals = arrivals_of(o);
  const bool texts = o.eos || !o.trace.empty();
  Session session(o.model, engine_options, texts ? Session::Input::kText : Session::Input::kIds);
  engine::Engine& engine = session.engine();
  const models::Config& config = session.model().config();
  LiveView view(o.model.quiet);

  // Lengths are known before times, which may be given in units of a lone request's.
  eval::Trace trace;
  if (!o.trace.empty()) {
    eval::TraceDefaults defaults;
    defaults.vocab = config.vocab;
    defaults.seed = o.seed;
    defaults.encode = [&](const std::string& text) { return session.encode_raw(text); };
    trace = eval::parse_trace(read_file(o.trace), o.trace, defaults);
  } else {
    trace = eval::make_trace(arrivals, config.vocab);
  }
  eval::MeasureOptions measure;
  measure.rows = o.concurrency;
  measure.keys = 1;
  size_t longest_prompt = 1;
  double prompt_sum = 0, output_sum = 0;
  for (const auto& r : trace) {
    // Beyond, the cost goes on in a line.
    measure.keys = std::max(measure.keys, std::min({int(r.prompt.size()) + r.output_tokens,
                                                    config.context_length, kMostMeasuredKeys}));
    longest_prompt = std::max(longest_prompt, r.prompt.size());
    prompt_sum += double(r.prompt.size());
    output_sum += r.output_tokens;
  }
  measure.prompt_rows =
      int(std::min(size_t(o.prompt_rows), longest_prompt * size_t(o.concurrency)));
  const eval::MeasuredCost cost =
      eval::measure_tick_cost(engine, measure, [&](int done, int total) {
        if (view.line().due())
          view.line().show("measuring forwards " + std::to_string(done) + " of " +
                           std::to_string(total));
      });
  view.line().clear();
  const Alone alone(cost);
  const double lone =
      alone.seconds(int(prompt_sum / double(trace.size())), int(output_sum / double(trace.size())));
  if (o.trace.empty()) {
    const std::string& text = !o.poisson.empty() ? o.poisson : o.interval;
    arrivals.process =
        o.poisson.empty() ? eval::ArrivalOptions::kConstant : eval::ArrivalOptions::kPoisson;
    if (!text.empty())
      arrivals.interval = seconds_of(text, o.poisson.empty() ? "--interval" : "--poisson", lone);
    arrivals.cancel_within = 2 * lone;
    trace = eval::make_trace(arrivals, config.vocab);
  }

  std::vector<Line> lines = lines_of(o);
  for (Line& line : lines) {
    line.options.window_seconds = seconds_of(o.window, "--window", lone);
    if (texts) line.options.end_ids = session.tokenizer().end_ids();
    line.options.on_tick = [&view, &line](const eval::TickRecord& tick) {
      view.show(line.label, tick);
    };
  }
  // Interleaved repeats: a slow moment of the machine falls on every line alike.
  for (int repeat = 0; repeat < o.repeats; ++repeat) {
    for (Line& line : lines) line.results.push_back(eval::run_traffic(engine, trace, line.options));
  }
  view.line().clear();
  for (Line& line : lines) {
    std::vector<size_t> order(line.results.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return line.results[a].seconds < line.results[b].seconds;
    });
    line.chosen = order[order.size() / 2];
    // An end token is known once it was drawn; who was refused was never computed.
    std::vector<int> tokens;
    for (size_t i = 0; i < trace.size(); ++i) {
      const auto& r = line.result().requests[i];
      tokens.push_back(r.outcome == eval::RequestRecord::kFinished ? int(r.tokens.size())
                                                                   : trace[i].output_tokens);
    }
    std::vector<eval::ForecastRequest> requests = eval::forecast_requests(trace, tokens);
    for (size_t i = 0; i < trace.size(); ++i) {
      requests[i].refused = line.result().requests[i].outcome == eval::RequestRecord::kRefused;
    }
    line.forecast_seconds = eval::forecast_schedule(requests, line.options, cost).seconds;
  }

  const double span = trace.back().arrival;
  if (!o.csv.empty()) write_file_atomically(o.csv, requests_csv(lines, trace, alone));
  if (!o.ticks_csv.empty()) write_file_atomically(o.ticks_csv, ticks_csv(lines));
  if (!o.svg.empty()) write_plots(o.svg, lines, trace, alone);
  const std::string isa(tensor::name(tensor::kernels().isa));
  if (o.json) {
    Json rows = Json::array();
    for (const Line& line : lines) rows.push_back(json_of(line, trace, alone, span));
    std::cout << print_json(Json{{"model", o.model.model},
                                 {"threads", session.pool()->threads()},
                                 {"isa", isa},
                                 {"kv", o.model.kv},
                                 {"arithmetic", o.model.arithmetic},
                                 {"weight_bytes", session.model().bytes_per_forward()},
                                 {"requests", trace.size()},
                                 {"concurrency", o.concurrency},
                                 {"repeats", o.repeats},
                                 {"lone_seconds", lone},
                                 {"lone_tok_s", output_sum / double(trace.size()) / lone},
                                 {"rows", std::move(rows)}})
              << '\n';
    return;
  }
  std::printf(
      "%s, %s, %d threads, KV %s, %s; %zu requests over %.2f s, %d in flight at most, median of "
      "%d\n",
      o.model.model.c_str(), isa.c_str(), session.pool()->threads(), o.model.kv.c_str(),
      o.model.arithmetic.c_str(), trace.size(), span, o.concurrency, o.repeats);
  std::printf("a lone request of mean lengths: %.2f s, %.1f tok/s; %d rows: %.1f tok/s\n", lone,
              output_sum / double(trace.size()) / lone, o.concurrency,
              o.concurrency / cost(o.concurrency, double(measure.keys) / 2));
  print_table(lines, trace, alone);
}

}  // namespace

void add_traffic(CLI::App& app) {
  auto o = std::make_shared<TrafficCommand>();
  CLI::App* command =
      app.add_subcommand("traffic", "requests that arrive over time, under several schedulers");
  o->model.add_to(*command);
  command
      ->add_option("--scheduler", o->schedulers,
                   "fused, dynamic-batch, instances, separated by commas")
      ->delimiter(',')
      ->check(CLI::IsMember({"fused", "dynamic-batch", "instances"}))
      ->default_str("fused,dynamic-batch,instances");
  command->add_option("--layout", o->layouts, "of fused: paged, contiguous")
      ->delimiter(',')
      ->check(CLI::IsMember({"paged", "contiguous"}))
      ->default_str("paged,contiguous");
  command
      ->add_option("--shuffle", o->shuffles,
                   "of contiguous: on, off, auto (when it costs less than the holes)")
      ->delimiter(',')
      ->check(CLI::IsMember({"on", "off", "auto"}))
      ->default_str("on,off");
  command->add_option("--admission", o->admission, "who goes first: fcfs, shortest-prompt")
      ->check(CLI::IsMember({"fcfs", "shortest-prompt"}))
      ->capture_default_str();
  command->add_option("--requests", o->requests, "how many arrive")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  auto* interval = command->add_option(
      "--interval", o->interval, "between arrivals: seconds, or as 0.1x of a lone request's time");
  auto* poisson =
      command->add_option("--poisson", o->poisson, "mean of random intervals, in the same units")
          ->excludes(interval);
  command
      ->add_option("--trace", o->trace,
                   "a file of requests instead, one JSON object a line: arrival, prompt | ids | "
                   "prompt_tokens, "
                   "output_tokens, cancel_after, ignore_eos, seed, temp, top_k, top_p, min_p, "
                   "repeat_penalty, "
                   "presence_penalty, frequency_penalty")
      ->excludes(interval)
      ->excludes(poisson);
  command->add_option("--prompt-tokens", o->prompt_tokens, "N, or LOW-HIGH for random lengths")
      ->capture_default_str();
  command->add_option("--output-tokens", o->output_tokens, "N, or LOW-HIGH")->capture_default_str();
  command
      ->add_option("--sampled", o->sampled,
                   "share of requests that draw at temperature 0.8; others are greedy")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option("--cancel", o->cancel,
                   "share of requests whose client goes away within two lone requests' time")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--eos", o->eos, "end tokens end requests");
  command->add_option("-s,--seed", o->seed, "of lengths, prompts and times")->capture_default_str();
  command
      ->add_option("--concurrency", o->concurrency,
                   "requests in flight at most; slots of the contiguous layout")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      ->add_option("--slot-tokens", o->slot_tokens, "of a contiguous slot; 0: the longest request")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command
      ->add_option("--queue", o->queue, "requests that may wait, others are refused; 0: any number")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--prompt-rows", o->prompt_rows, "prompt rows of one iteration")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command
      ->add_option("--window", o->window,
                   "how long a dynamic batch collects, in the units of --interval")
      ->capture_default_str();
  command->add_option("--repeats", o->repeats, "runs of each line, interleaved; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--csv", o->csv, "write a line per request");
  command->add_option("--ticks-csv", o->ticks_csv, "write a line per iteration");
  command->add_option("--svg", o->svg,
                      "write PREFIX.progress.svg, .finished, .in-flight, .latency, .throughput");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { traffic(*o); });
}

}  // namespace tutti::cli
