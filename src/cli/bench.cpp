// tutti bench: throughput by rows and by concurrent sequences.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/philox.h"
#include "cli/bench_forward.h"
#include "cli/bench_serve.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/roofs.h"
#include "cli/session.h"
#include "eval/plot.h"
#include "tensor/kernels.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct BenchOptions {
  ModelOptions model;
  std::vector<int> prompt_rows{1, 32, 512};
  std::vector<int> streams{1, 4, 16, 32};
  std::vector<int> depths{0};
  bool forks = false;
  int tokens = 64;
  int repeats = 3;
  bool json = false;
  std::string svg;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Any tokens do for speed; drawn, so that no two sequences share cached pages.
std::vector<int32_t> random_tokens(int n, int vocab, uint32_t stream) {
  std::vector<int32_t> tokens;
  DrawKey key;
  key.purpose = Purpose::kTrace;
  key.path = stream;
  for (int i = 0; i < n; ++i)
    tokens.push_back(int32_t(draw_word(key, uint32_t(i)) % uint32_t(vocab)));
  return tokens;
}

engine::Want greedy() {
  engine::Want want;
  want.pick = true;
  want.sampling.temperature = 0;
  return want;
}

void run_all(engine::Engine& engine, std::vector<std::function<Task<void>()>> programs) {
  std::exception_ptr first;
  for (auto& program : programs) {
    engine.spawn(engine.new_request(), program, [&](std::exception_ptr e) {
      if (e && !first) first = e;
    });
  }
  engine.run();
  if (first) std::rethrow_exception(first);
}

// Tokens per second of one prompt of `rows` rows, its last row picking a token.
double prompt_speed(Session& session, int rows, uint32_t stream) {
  engine::Engine& engine = session.engine();
  const auto tokens = random_tokens(rows, session.model().config().vocab, stream);
  double seconds = 0;
  run_all(engine, {[&]() -> Task<void> {
            engine::Context context(engine, engine.new_request());
            const auto start = Clock::now();
            co_await engine.forward(context, engine::Rows::append(tokens, 0, greedy()));
            seconds = seconds_since(start);
          }});
  return rows / seconds;
}

// What a measurement of decoding varies.
struct DecodePoint {
  int streams = 1;
  int depth = 0;
  bool forks = false;  // of one prompt, whose slots they share; else each has a prompt of its own
};

// Tokens per second of sequences that decode `count` tokens side by side.
double decode_speed(Session& session, const DecodePoint& point, int count, uint32_t stream) {
  engine::Engine& engine = session.engine();
  const int vocab = session.model().config().vocab, depth = point.depth;
  std::vector<engine::Context> contexts;
  std::vector<std::function<Task<void>()>> programs;
  const int prompts = point.forks ? 1 : point.streams;
  for (int s = 0; s < prompts; ++s) {
    contexts.emplace_back(engine, engine.new_request());
    if (depth == 0) continue;
    programs.push_back([&, s]() -> Task<void> {
      co_await engine.forward(
          contexts[size_t(s)],
          engine::Rows::append(random_tokens(depth, vocab, stream + uint32_t(s)), 0, std::nullopt));
    });
  }
  run_all(engine, std::move(programs));
  while (int(contexts.size()) < point.streams) contexts.push_back(contexts.front().fork());
  programs.clear();
  for (int s = 0; s < point.streams; ++s) {
    programs.push_back([&, s]() -> Task<void> {
      engine::Context context = std::move(contexts[size_t(s)]);
      int32_t token = random_tokens(1, vocab, stream + uint32_t(s)).front();
      for (int i = 0; i < count; ++i) {
        engine::Rows rows;
        rows.rows.emplace_back(token, depth + i);
        rows.rows.back().want = greedy();
        const engine::Answer answer = co_await engine.forward(context, std::move(rows));
        token = answer.rows.front().picked.token;
      }
    });
  }
  const auto start = Clock::now();
  run_all(engine, std::move(programs));
  return double(point.streams) * count / seconds_since(start);
}

// The most memory that this program has held at once, in bytes; 0 where the system does not say.
// The count of getrusage would not do: it begins with what the parent held when it started us.
size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoul(line.substr(6)) * 1024;
  }
  return 0;
}

std::string_view in_words(models::PackedWeights::From from) {
  using From = models::PackedWeights::From;
  return from == From::kCache ? "cache" : from == From::kNewFile ? "new cache file" : "memory";
}

[[noreturn]] void too_long(const std::string& what, int context) {
  throw Error(ErrorKind::kUsage,
              what + ": do not fit the model's context of " + std::to_string(context));
}

// What the machine can do at best.
struct Roofs {
  double bandwidth = 0;  // bytes a second from a buffer of the weights' size, again and again
  double dots = 0;       // multiply-adds a second of bytes, from registers
  double exact = 0;      // with the scaling that exact-q8 asks for a block of 32 with a minimum
};

Roofs measure_roofs(ComputePool& pool, size_t weight_bytes) {
  return {read_bandwidth(pool, weight_bytes), compute_peak(pool, tensor::Peak::kDots),
          compute_peak(pool, tensor::Peak::kExactQ8Min)};
}

std::vector<DecodePoint> decode_points(const BenchOptions& o) {
  std::vector<DecodePoint> points;
  for (const int streams : o.streams) {
    for (const int depth : o.depths) {
      points.push_back({streams, depth, false});
      if (o.forks && streams > 1 && depth > 0) points.push_back({streams, depth, true});
    }
  }
  return points;
}

// Slots whose keys and values a forward reads, in the middle of `tokens` tokens; the mean over
// layers. Each stream reads its own, forks those of their prompt together; layers that slide see
// the last ones only.
double slots_per_forward(const models::Config& config, const DecodePoint& p, int tokens) {
  double slots = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    const bool slides = config.window > 0 && config.is_sliding(layer);
    const double own = tokens / 2.0, seen = slides ? config.window : p.depth + own;
    const double last = std::min(own, seen), prompt = std::min(double(p.depth), seen - last);
    slots += (p.streams * last + (p.forks ? 1 : p.streams) * prompt) / config.layers;
  }
  return slots;
}

std::string plot_of(const std::string& title, const Json& decode) {
  std::map<std::string, std::vector<std::pair<double, double>>> lines;
  for (const Json& j : decode) {
    const double streams = j["streams"], speed = j["tok_s"];
    const std::string name = (j["forks"].get<bool>() ? "forks at depth " : "depth ") +
                             std::to_string(j["depth"].get<int>());
    lines[name].emplace_back(streams, speed);
    const double used =
        std::max(j["bandwidth_fraction"].get<double>(), j["compute_fraction"].get<double>());
    lines[name + ", roof"].emplace_back(streams, speed / used);
  }
  eval::Plot plot(title, "concurrent streams", "tokens per second");
  for (auto& [name, points] : lines) plot.add_line(name, std::move(points));
  return plot.svg();
}

void print(const Json& d) {
  std::printf("%s, %s, %d threads, KV %s, %s; %d tokens per stream, median of %d [low–high]\n",
              d["model"].get<std::string>().c_str(), d["isa"].get<std::string>().c_str(),
              d["threads"].get<int>(), d["kv"].get<std::string>().c_str(),
              d["arithmetic"].get<std::string>().c_str(), d["tokens"].get<int>(),
              d["repeats"].get<int>());
  std::printf(
      "weights %.1f MiB, loaded in %.3f s (from %s), peak memory %.1f MiB; reading %.1f GB/s of "
      "that size, %.1f of 1 "
      "GiB; from registers %.0f GMAC/s of bytes, %.0f of exact-q8\n",
      d["weight_bytes"].get<double>() / (1 << 20), d["load_seconds"].get<double>(),
      d["weights_from"].get<std::string>().c_str(), d["peak_rss_bytes"].get<double>() / (1 << 20),
      d["read_bandwidth"].get<double>() / 1e9, d["stream_bandwidth"].get<double>() / 1e9,
      d["peak_dots_gmac_s"].get<double>(), d["peak_exact_gmac_s"].get<double>());
  std::printf("\n  prompt rows      tok/s\n");
  for (const auto& j : d["prompt"]) {
    std::printf("  %11d %10.1f  [%.1f–%.1f]\n", j["rows"].get<int>(), j["tok_s"].get<double>(),
                j["low"].get<double>(), j["high"].get<double>());
  }
  std::printf(
      "\n  streams  depth          tok/s                     of 1 GiB's   GMAC/s   of exact-q8\n");
  for (const auto& j : d["decode"]) {
    std::printf("  %7d %6d %5s %8.1f  [%8.1f–%8.1f]   %6.0f %%     %8.1f   %6.0f %%\n",
                j["streams"].get<int>(), j["depth"].get<int>(),
                j["forks"].get<bool>() ? "forks" : "", j["tok_s"].get<double>(),
                j["low"].get<double>(), j["high"].get<double>(),
                100 * j["stream_fraction"].get<double>(), j["gmac_s"].get<double>(),
                100 * j["compute_fraction"].get<double>());
  }
}

void bench(const BenchOptions& o) {
  Session session(o.model, {}, Session::Input::kIds);
  const models::Model& model = session.model();
  const int context = model.config().context_length;
  for (const int rows : o.prompt_rows) {
    if (rows > context) too_long("--prompt-rows " + std::to_string(rows), context);
  }
  for (const int depth : o.depths) {
    if (depth > context - o.tokens) {
      too_long("--depth " + std::to_string(depth) + " and -n " + std::to_string(o.tokens), context);
    }
  }
  const std::string_view isa = tensor::name(tensor::kernels().isa);
  const size_t bytes = model.bytes_per_forward();
  const auto row = [](const Spread& s) {
    return Json{{"tok_s", s.median}, {"low", s.low}, {"high", s.high}};
  };
  uint32_t stream = 1;
  ComputePool& pool = *session.pool();

  const double slot_bytes =
      double(model.kv_layout(session.engine().options().kv).page_bytes()) / tensor::kPageSlots;
  const auto bytes_per_forward = [&](const DecodePoint& p) {
    return double(bytes) + slot_bytes * slots_per_forward(model.config(), p, o.tokens);
  };

  Json prompt = Json::array(), decode = Json::array();
  // Interleaved repeats: a slow moment of the machine falls on every line alike.
  std::vector<std::vector<double>> prompt_samples(o.prompt_rows.size());
  const std::vector<DecodePoint> points = decode_points(o);
  std::vector<std::vector<double>> decode_samples(points.size()), stream_shares(points.size());
  std::vector<double> stream_samples;
  prompt_speed(session, 16, stream++);  // warm-up
  const size_t peak_before = peak_resident_bytes();
  ReadLoop read_loop(size_t(1) << 30);  // which no cache holds a part of
  for (int repeat = 0; repeat < o.repeats; ++repeat) {
    for (size_t i = 0; i < o.prompt_rows.size(); ++i) {
      prompt_samples[i].push_back(prompt_speed(session, o.prompt_rows[i], stream++));
    }
    for (size_t i = 0; i < points.size(); ++i) {
      const double before = read_loop.pass(pool);
      decode_samples[i].push_back(decode_speed(session, points[i], o.tokens, stream));
      const double after = read_loop.pass(pool);
      stream_samples.insert(stream_samples.end(), {before, after});
      stream_shares[i].push_back(decode_samples[i].back() / points[i].streams *
                                 bytes_per_forward(points[i]) / (0.5 * (before + after)));
      stream += uint32_t(points[i].streams);
    }
  }
  if (stream_samples.empty()) stream_samples.push_back(read_loop.pass(pool));
  const size_t peak = std::max(peak_before, peak_resident_bytes() - read_loop.bytes());
  const Roofs roofs = measure_roofs(pool, bytes);  // holds as much memory again: after the peak
  for (size_t i = 0; i < o.prompt_rows.size(); ++i) {
    Json j{{"rows", o.prompt_rows[i]}};
    j.update(row(spread_of(prompt_samples[i])));
    prompt.push_back(std::move(j));
  }
  for (size_t i = 0; i < points.size(); ++i) {
    const DecodePoint& p = points[i];
    Json j{{"streams", p.streams}, {"depth", p.depth}, {"forks", p.forks}};
    const Spread speed = spread_of(decode_samples[i]);
    j.update(row(speed));
    j["bandwidth_fraction"] = speed.median / p.streams * bytes_per_forward(p) / roofs.bandwidth;
    j["stream_fraction"] = spread_of(stream_shares[i]).median;
    j["gmac_s"] = speed.median * double(model.multiply_adds_per_row()) / 1e9;
    j["compute_fraction"] = speed.median * double(model.multiply_adds_per_row()) / roofs.exact;
    decode.push_back(std::move(j));
  }
  const Json document{{"model", o.model.model},
                      {"threads", session.pool()->threads()},
                      {"isa", isa},
                      {"kv", o.model.kv},
                      {"arithmetic", o.model.arithmetic},
                      {"tokens", o.tokens},
                      {"repeats", o.repeats},
                      {"load_seconds", session.load_seconds()},
                      {"weights_from", in_words(model.weights_from())},
                      {"peak_rss_bytes", peak},
                      {"weight_bytes", bytes},
                      {"read_bandwidth", roofs.bandwidth},
                      {"stream_bandwidth", spread_of(stream_samples).median},
                      {"peak_dots_gmac_s", roofs.dots / 1e9},
                      {"peak_exact_gmac_s", roofs.exact / 1e9},
                      {"prompt", prompt},
                      {"decode", decode}};
  if (!o.svg.empty()) {
    const std::string title = "decode throughput, " + o.model.model + " (" + std::string(isa) +
                              ", " + std::to_string(session.pool()->threads()) + " threads)";
    write_file_atomically(o.svg, plot_of(title, decode));
  }
  if (o.json) {
    std::cout << print_json(document) << '\n';
  } else {
    print(document);
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* command =
      app.add_subcommand("bench", "throughput by prompt rows and by concurrent sequences");
  o->model.add_to(*command);
  command
      ->add_option("--prompt-rows", o->prompt_rows, "prompt lengths, separated by commas; 0: none")
      ->delimiter(',')
      ->default_str("1,32,512");
  command->add_option("--streams", o->streams, "numbers of concurrent sequences; 0: none")
      ->delimiter(',')
      ->default_str("1,4,16,32");
  command->add_option("--depth", o->depths, "tokens already in each sequence")
      ->delimiter(',')
      ->default_str("0");
  command->add_flag(
      "--forks", o->forks,
      "beside sequences of their own prompts, forks of one prompt, at every depth above 0");
  command->add_option("-n,--tokens", o->tokens, "tokens decoded per sequence")
      ->capture_default_str();
  command->add_option("--repeats", o->repeats, "measurements; the median counts")
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot of the decode throughput");
  add_bench_matmul(*command);
  add_bench_serve(*command);
  add_bench_forward(*command);
  // Beside its own commands, which load no model, bench itself still wants one.
  command->get_option("--model")->required(false);
  command->callback([o, command] {
    if (!command->get_subcommands().empty()) return;
    if (o->model.model.empty()) throw Error(ErrorKind::kUsage, "bench: --model is required");
    const auto positive = [](const std::vector<int>& list, int least, const char* what) {
      for (const int x : list) {
        if (x < least)
          throw Error(ErrorKind::kUsage,
                      std::string(what) + ": " + std::to_string(x) + " is too small");
      }
    };
    for (auto* list : {&o->prompt_rows, &o->streams}) {
      if (*list == std::vector<int>{0}) list->clear();
    }
    positive(o->prompt_rows, 1, "--prompt-rows");
    positive(o->streams, 1, "--streams");
    positive(o->depths, 0, "--depth");
    positive({o->tokens, o->repeats}, 1, "--tokens, --repeats");
    bench(*o);
  });
}

}  // namespace tutti::cli
