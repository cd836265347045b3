// tutti bench forward: what rows cost in a forward over libtorch's tensors.
#include "cli/bench_forward.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/pool.h"
#include "cli/json_text.h"
#include "cli/roofs.h"
#include "cli/torch_library.h"
#include "eval/plot.h"
#include "train/forward_times.h"
#include "train/recipe.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ForwardOptions {
  train::ForwardTimesRequest request;
  std::string like = "llama-3.2-1b", precision = "bf16", svg;
  bool json = false;
};

// Sizes of published models.
const std::map<std::string, train::ModelShape>& known_shapes() {
  static const std::map<std::string, train::ModelShape> shapes{
      {"smollm2-135m", {"llama", 30, 576, 9, 3, 64, 1536, 8192, 49152, 100000, 1e-5, true}},
      {"llama-3.2-1b", {"llama", 16, 2048, 32, 8, 64, 8192, 131072, 128256, 500000, 1e-5, true}},
      {"llama-3.2-3b", {"llama", 28, 3072, 24, 8, 128, 8192, 131072, 128256, 500000, 1e-5, true}},
      {"llama-3.1-8b", {"llama", 32, 4096, 32, 8, 128, 14336, 131072, 128256, 500000, 1e-5, false}},
  };
  return shapes;
}

Json measured(const ForwardOptions& o, const train::ForwardTimesResult& r) {
  Json rows = Json::array();
  const double first = spread_of(r.seconds.front()).median;
  for (size_t i = 0; i < r.seconds.size(); ++i) {
    const Spread s = spread_of(r.seconds[i]);
    rows.push_back({{"rows", o.request.rows[i]},
                    {"ms", 1e3 * s.median},
                    {"low", 1e3 * s.low},
                    {"high", 1e3 * s.high},
                    {"against_first", s.median / first},
                    {"bandwidth_fraction", r.weight_bytes / s.median / r.copy_bandwidth}});
  }
  return {{"shape", o.like},
          {"device", o.request.device},
          {"precision", o.precision},
          {"depth", o.request.depth},
          {"repeats", o.request.repeats},
          {"machine", r.machine},
          {"parameters", r.parameters},
          {"weight_bytes", r.weight_bytes},
          {"copy_bandwidth", r.copy_bandwidth},
          {"rows", rows}};
}

void print(const Json& d) {
  std::printf("%s (%.2f billion drawn weights), %s, %s, depth %d, median of %d [low–high]\n",
              d["shape"].get<std::string>().c_str(), d["parameters"].get<double>() / 1e9,
              d["machine"].get<std::string>().c_str(), d["precision"].get<std::string>().c_str(),
              d["depth"].get<int>(), d["repeats"].get<int>());
  std::printf("a copy moves %.0f GB/s, read and written; a forward reads %.2f GB of weights\n\n",
              d["copy_bandwidth"].get<double>() / 1e9, d["weight_bytes"].get<double>() / 1e9);
  std::printf("   rows         ms                     L(r)/L(%d)   of bandwidth\n",
              d["rows"].front()["rows"].get<int>());
  for (const Json& j : d["rows"]) {
    std::printf("  %5d %10.3f  [%8.3f–%8.3f]   %8.2f   %8.0f %%\n", j["rows"].get<int>(),
                j["ms"].get<double>(), j["low"].get<double>(), j["high"].get<double>(),
                j["against_first"].get<double>(), 100 * j["bandwidth_fraction"].get<double>());
  }
}

void bench_forward(ForwardOptions& o) {
  o.request.shape = known_shapes().at(o.like);
  o.request.bf16 = o.precision == "bf16";
  if (o.request.threads == 0) o.request.threads = available_cores();
  for (const int rows : o.request.rows) {
    if (rows < 1 || int64_t(rows) + o.request.depth > o.request.shape.context) {
      throw Error(ErrorKind::kUsage, "--rows: " + std::to_string(rows) + " at depth " +
                                         std::to_string(o.request.depth) +
                                         " is not between 1 and the context of " +
                                         std::to_string(o.request.shape.context));
    }
  }
  const auto run =
      reinterpret_cast<train::ForwardTimesFunction>(torch_function(train::kForwardTimesFunction));
  train::ForwardTimesResult result;
  run(o.request, result);
  const Json document = measured(o, result);
  if (!o.svg.empty()) {
    std::vector<std::pair<double, double>> points;
    for (const Json& j : document["rows"]) points.emplace_back(j["rows"], j["ms"]);
    eval::Plot plot("a forward of " + o.like + ", " + o.request.device, "rows", "milliseconds");
    plot.add_line("depth " + std::to_string(o.request.depth), std::move(points));
    write_file_atomically(o.svg, plot.svg());
  }
  if (o.json) {
    std::cout << print_json(document) << '\n';
  } else {
    print(document);
  }
}

}  // namespace

void add_bench_forward(CLI::App& bench) {
  auto o = std::make_shared<ForwardOptions>();
  o->request.rows = {1, 2, 4, 8, 16, 32, 64, 128};
  o->request.depth = 512;
  o->request.repeats = 9;
  o->request.threads = 0;
  CLI::App* command = bench.add_subcommand(
      "forward", "what rows cost in a forward over tensors of libtorch, on a processor or a GPU");
  std::vector<std::string> names;
  for (const auto& [name, shape] : known_shapes()) names.push_back(name);
  command->add_option("--shape", o->like, "the sizes of a published model; weights are drawn")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  command->add_option("--device", o->request.device, "cpu, cuda, or cuda:1 for the second GPU")
      ->check(train::is_device_option)
      ->capture_default_str()
      ->envname("TUTTI_DEVICE");
  command->add_option("--precision", o->precision, "of weights, keys and values")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command->add_option("--rows", o->request.rows, "rows of a forward, separated by commas")
      ->delimiter(',')
      ->default_str("1,2,4,8,16,32,64,128");
  command->add_option("--depth", o->request.depth, "tokens before the rows")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--repeats", o->request.repeats, "measurements; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("-t,--threads", o->request.threads, "threads (0: all cores)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str()
      ->envname("TUTTI_THREADS");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot");
  command->callback([o] { bench_forward(*o); });
}

}  // namespace tutti::cli
