// tutti bench: throughput by rows and by concurrent sequences.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/philox.h"
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
  int tokens = 64;
  int repeats = 3;
  bool json = false;
  std::string svg;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Any tokens do for speed; drawn, so that no two sequences share cached pages.
std::vector<int32_t> random_tokens(int n, int vocab, uint32_t stream) {
  std::vector<int32_t> tokens;
  DrawKey key;
  key.purpose = Purpose::kTrace;
  key.path = stream;
  for (int i = 0; i < n; ++i) tokens.push_back(int32_t(draw_word(key, uint32_t(i)) % uint32_t(vocab)));
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

// Tokens per second of `streams` sequences that decode `count` tokens side by side after `depth` tokens each.
double decode_speed(Session& session, int streams, int depth, int count, uint32_t stream) {
  engine::Engine& engine = session.engine();
  const int vocab = session.model().config().vocab;
  int ready = 0;
  Clock::time_point start;
  std::vector<std::function<Task<void>()>> programs;
  std::vector<std::vector<int32_t>> prompts;
  for (int s = 0; s < streams; ++s) prompts.push_back(random_tokens(depth + 1, vocab, stream + uint32_t(s)));
  asio::steady_timer gate(engine.io());  // all sequences start decoding together
  gate.expires_at(Clock::time_point::max());
  for (int s = 0; s < streams; ++s) {
    programs.push_back([&, s]() -> Task<void> {
      engine::Context context(engine, engine.new_request());
      if (depth > 0) {
        co_await engine.forward(
            context, engine::Rows::append(std::span(prompts[size_t(s)]).first(size_t(depth)), 0, std::nullopt));
      }
      if (++ready == streams) {
        start = Clock::now();
        gate.cancel();
      } else {
        boost::system::error_code ignored;
        co_await gate.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      int32_t token = prompts[size_t(s)].back();
      for (int i = 0; i < count; ++i) {
        engine::Rows rows;
        rows.rows.emplace_back(token, depth + i);
        rows.rows.back().want = greedy();
        const engine::Answer answer = co_await engine.forward(context, std::move(rows));
        token = answer.rows.front().picked.token;
      }
    });
  }
  run_all(engine, std::move(programs));
  return double(streams) * count / seconds_since(start);
}

[[noreturn]] void too_long(const std::string& what, int context) {
  throw Error(ErrorKind::kUsage, what + ": do not fit the model's context of " + std::to_string(context));
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
  const double bandwidth = read_bandwidth(*session.pool(), bytes);
  const auto row = [](const Spread& s) { return Json{{"tok_s", s.median}, {"low", s.low}, {"high", s.high}}; };
  uint32_t stream = 1;

  Json prompt = Json::array(), decode = Json::array();
  // Interleaved repeats: a slow moment of the machine falls on every line alike.
  std::vector<std::vector<double>> prompt_samples(o.prompt_rows.size());
  std::vector<std::vector<double>> decode_samples(o.streams.size() * o.depths.size());
  prompt_speed(session, 16, stream++);  // warm-up
  for (int repeat = 0; repeat < o.repeats; ++repeat) {
    for (size_t i = 0; i < o.prompt_rows.size(); ++i) {
      prompt_samples[i].push_back(prompt_speed(session, o.prompt_rows[i], stream++));
    }
    for (size_t s = 0; s < o.streams.size(); ++s) {
      for (size_t d = 0; d < o.depths.size(); ++d) {
        decode_samples[s * o.depths.size() + d].push_back(
            decode_speed(session, o.streams[s], o.depths[d], o.tokens, stream));
        stream += uint32_t(o.streams[s]);
      }
    }
  }
  for (size_t i = 0; i < o.prompt_rows.size(); ++i) {
    Json j{{"rows", o.prompt_rows[i]}};
    j.update(row(spread_of(prompt_samples[i])));
    prompt.push_back(std::move(j));
  }
  for (size_t s = 0; s < o.streams.size(); ++s) {
    for (size_t d = 0; d < o.depths.size(); ++d) {
      Json j{{"streams", o.streams[s]}, {"depth", o.depths[d]}};
      const Spread speed = spread_of(decode_samples[s * o.depths.size() + d]);
      j.update(row(speed));
      // Weights are read once a forward for all streams, each stream reads its own keys and values.
      const tensor::KvLayout kv = model.kv_layout(session.engine().options().kv);
      const double kv_bytes = double(kv.page_bytes()) / tensor::kPageSlots * (o.depths[d] + o.tokens / 2.0);
      const double per_forward = double(bytes) + kv_bytes * o.streams[s];
      j["bandwidth_fraction"] = speed.median / o.streams[s] * per_forward / bandwidth;
      j["gmac_s"] = speed.median * double(model.multiply_adds_per_row()) / 1e9;
      decode.push_back(std::move(j));
    }
  }
  const Json document{{"model", o.model.model},
                      {"threads", session.pool()->threads()},
                      {"isa", isa},
                      {"kv", o.model.kv},
                      {"arithmetic", o.model.arithmetic},
                      {"tokens", o.tokens},
                      {"repeats", o.repeats},
                      {"load_seconds", session.load_seconds()},
                      {"weight_bytes", bytes},
                      {"read_bandwidth", bandwidth},
                      {"prompt", prompt},
                      {"decode", decode}};
  if (!o.svg.empty()) {
    eval::Plot plot("decode throughput, " + o.model.model + " (" + std::string(isa) + ", " +
                        std::to_string(session.pool()->threads()) + " threads)",
                    "concurrent streams", "tokens per second");
    for (const int depth : o.depths) {
      std::vector<std::pair<double, double>> points;
      for (const auto& j : decode) {
        if (j["depth"] == depth) points.emplace_back(j["streams"].get<double>(), j["tok_s"].get<double>());
      }
      plot.add_line("depth " + std::to_string(depth), std::move(points));
    }
    write_file_atomically(o.svg, plot.svg());
  }
  if (o.json) {
    std::cout << print_json(document) << '\n';
    return;
  }
  std::printf("%s, %s, %d threads, KV %s, %s; %d tokens per stream, median of %d [low–high]\n", o.model.model.c_str(),
              std::string(isa).c_str(), session.pool()->threads(), o.model.kv.c_str(), o.model.arithmetic.c_str(),
              o.tokens, o.repeats);
  std::printf("weights %.1f MiB, read bandwidth of that size %.1f GB/s, loaded in %.2f s\n", double(bytes) / (1 << 20),
              bandwidth / 1e9, session.load_seconds());
  std::printf("\n  prompt rows      tok/s\n");
  for (const auto& j : prompt) {
    std::printf("  %11d %10.1f  [%.1f–%.1f]\n", j["rows"].get<int>(), j["tok_s"].get<double>(), j["low"].get<double>(),
                j["high"].get<double>());
  }
  std::printf("\n  streams  depth      tok/s                     of bandwidth   GMAC/s\n");
  for (const auto& j : decode) {
    std::printf("  %7d %6d %10.1f  [%8.1f–%8.1f]   %6.0f %%     %8.1f\n", j["streams"].get<int>(), j["depth"].get<int>(),
                j["tok_s"].get<double>(), j["low"].get<double>(), j["high"].get<double>(),
                100 * j["bandwidth_fraction"].get<double>(), j["gmac_s"].get<double>());
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "throughput by prompt rows and by concurrent sequences");
  o->model.add_to(*command);
  command->add_option("--prompt-rows", o->prompt_rows, "prompt lengths, separated by commas; 0: none")
      ->delimiter(',')
      ->default_str("1,32,512");
  command->add_option("--streams", o->streams, "numbers of concurrent sequences; 0: none")
      ->delimiter(',')
      ->default_str("1,4,16,32");
  command->add_option("--depth", o->depths, "tokens already in each sequence")->delimiter(',')->default_str("0");
  command->add_option("-n,--tokens", o->tokens, "tokens decoded per sequence")->capture_default_str();
  command->add_option("--repeats", o->repeats, "measurements; the median counts")->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot of the decode throughput");
  add_bench_matmul(*command);
  // Beside `bench matmul`, which has no model, bench itself still wants one.
  command->get_option("--model")->required(false);
  command->callback([o, command] {
    if (command->got_subcommand("matmul")) return;
    if (o->model.model.empty()) throw Error(ErrorKind::kUsage, "bench: --model is required");
    const auto positive = [](const std::vector<int>& list, int least, const char* what) {
      for (const int x : list) {
        if (x < least) throw Error(ErrorKind::kUsage, std::string(what) + ": " + std::to_string(x) + " is too small");
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
