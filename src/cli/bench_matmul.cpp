// tutti bench matmul: products of one matrix by types and rows, beside the roofs of the machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/philox.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/roofs.h"
#include "cli/session.h"
#include "convert/file_type.h"
#include "eval/plot.h"
#include "tensor/kernels.h"
#include "tensor/quantise.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using tensor::Matrix;
using tensor::Type;

struct MatmulOptions {
  std::vector<std::string> shapes{"1536x576", "576x1536", "4096x4096", "11008x4096"};
  std::vector<std::string> types{"Q4_0", "Q8_0", "BF16", "F32"};
  std::vector<int> rows{1, 2, 4, 8, 16, 32, 64, 128};
  int megabytes = 1024, repeats = 5, threads = 0;
  std::string arithmetic = "exact-q8";
  bool json = false, quiet = false;
  std::string svg;
};

struct Shape {
  int out = 0, in = 0;
};

Shape shape_of(const std::string& text) {
  Shape s;
  int used = 0;
  if (std::sscanf(text.c_str(), "%dx%d%n", &s.out, &s.in, &used) != 2 ||
      size_t(used) != text.size() || s.out < 1 || s.in < 1 || s.out > 1 << 20 || s.in > 1 << 20) {
    throw Error(ErrorKind::kUsage,
                "--shape: \"" + text + "\" is not of the form OUTxIN, 11008x4096 say");
  }
  return s;
}

// Matrices of one type and shape, and rows for them.
class Trial {
 public:
  // As many matrices as make `bytes`, one at least.
  Trial(Type type, Shape shape, tensor::Arithmetic arithmetic, size_t bytes, int most_rows,
        ComputePool& pool)
      : shape_(shape), pool_(pool) {
    std::vector<float> weights(size_t(shape.in) * 16);
    const DrawKey key{.seed = 1, .purpose = Purpose::kTrace};
    for (size_t i = 0; i < weights.size(); ++i)
      weights[i] = uniform_open(draw_word(key, uint32_t(i))) - 0.5f;
    // A tile's rows, repeated: quick to set up, and the kernels do not look at values.
    const size_t row = tensor::row_bytes(type, shape.in);
    std::vector<std::byte> raw(row * size_t(shape.out));
    const size_t part = std::min(raw.size(), row * 16);
    tensor::quantise(type, std::span(weights).first(part / row * size_t(shape.in)),
                     std::span(raw).first(part));
    for (size_t at = part; at < raw.size(); at += part)
      std::memcpy(&raw[at], raw.data(), std::min(part, raw.size() - at));
    do {
      matrices_.push_back(Matrix::allocate(type, shape.out, shape.in, arithmetic, &memory_));
      pool.run([&](Worker& worker) {
        const auto [first, last] = worker.share(matrices_.back().tiles());
        matrices_.back().pack_tiles(type, raw, first, last);
      });
    } while (matrices_.size() * matrices_.front().bytes() < bytes);
    x_.assign(weights.begin(), weights.begin() + shape.in);
    for (int r = 1; r < most_rows; ++r) x_.insert(x_.end(), x_.begin(), x_.begin() + shape.in);
    y_.resize(size_t(most_rows) * size_t(shape.out));
    q_.resize(x_.size());
    scales_.resize(x_.size() / 32 + 1);
    sums_.resize(x_.size() / 16 + 1);
    bf16_stride_ = size_t(shape.in + 31) / 32 * 32;
    bf16_.resize(size_t(most_rows) * bf16_stride_);
  }

  size_t matrices() const { return matrices_.size(); }
  size_t matrix_bytes() const { return matrices_.front().bytes(); }

  // Seconds of `rows` rows through one matrix: the mean over all, the rows' conversion to the
  // class's form included every time.
  double seconds(int rows) {
    const auto start = Clock::now();
    pool_.run([&](Worker& worker) {
      for (const Matrix& m : matrices_) {
        const auto own = worker.share(rows);
        convert(m, own.first, own.last - own.first);
        worker.barrier();
        const auto [first, last] = worker.share(m.tiles());
        multiply(m, rows, first, last);
        worker.barrier();
      }
    });
    return std::chrono::duration<double>(Clock::now() - start).count() / double(matrices_.size());
  }

 private:
  tensor::QuantisedRows quantised(const Matrix& m) {
    return {m.activation_block(), shape_.in, q_.data(), scales_.data(), sums_.data()};
  }
  void convert(const Matrix& m, int first, int count) {
    const tensor::Kernels& k = tensor::kernels();
    const size_t n = size_t(shape_.in);
    const float* from = x_.data() + size_t(first) * n;
    if (count > 0 && m.activation_block() > 0) k.quantise(from, n, count, quantised(m), first);
    if (m.arithmetic() != tensor::Arithmetic::kBf16Dot) return;
    for (int r = first; r < first + count; ++r, from += n)
      k.round_bf16(from, shape_.in, bf16_.data() + size_t(r) * bf16_stride_);
  }
  void multiply(const Matrix& m, int rows, int first, int last) {
    const tensor::Kernels& k = tensor::kernels();
    const size_t stride = size_t(shape_.out);
    switch (m.arithmetic()) {
      case tensor::Arithmetic::kExactQ8:
        return k.matmul_quantised(m, quantised(m), rows, first, last, y_.data(), stride);
      case tensor::Arithmetic::kW8A8Row:
        return k.matmul_w8a8(m, quantised(m), rows, first, last, y_.data(), stride);
      case tensor::Arithmetic::kBf16Dot:
        return k.matmul_bf16(m, bf16_.data(), bf16_stride_, rows, first, last, y_.data(), stride);
      case tensor::Arithmetic::kExactF32:
        return k.matmul_dense(m, x_.data(), size_t(shape_.in), rows, first, last, y_.data(),
                              stride);
    }
  }

  const Shape shape_;
  ComputePool& pool_;
  tensor::WeightMemory memory_;
  std::vector<Matrix> matrices_;
  std::vector<float> x_, y_, scales_;
  std::vector<int8_t> q_;
  std::vector<int32_t> sums_;
  std::vector<uint16_t> bf16_;
  size_t bf16_stride_ = 0;
};

// What bounds the products of a type.
tensor::Peak peak_of(Type type, tensor::Arithmetic arithmetic) {
  if (arithmetic == tensor::Arithmetic::kBf16Dot) return tensor::Peak::kBf16;
  if (arithmetic == tensor::Arithmetic::kW8A8Row) return tensor::Peak::kDots;
  if (arithmetic == tensor::Arithmetic::kExactF32) return tensor::Peak::kFloat;
  if (!tensor::info(type).quantised) return tensor::Peak::kFloat;
  if (tensor::info(type).block != 32) return tensor::Peak::kDots;
  const bool minimum = type == Type::kQ4_1 || type == Type::kQ5_1;
  return minimum ? tensor::Peak::kExactQ8Min : tensor::Peak::kExactQ8;
}

Json measure_shape(const std::string& text, const MatmulOptions& o, ComputePool& pool,
                   tensor::Arithmetic arithmetic, ReadLoop& reading,
                   const std::map<Type, double>& compute, ProgressLine& line) {
  const Shape shape = shape_of(text);
  const double elements = double(shape.out) * shape.in;
  const int most = *std::ranges::max_element(o.rows);
  Json results = Json::array();
  std::map<int, double> dense;  // by rows: seconds of F32
  std::vector<std::string> types = o.types;
  // F32 first: the others are told as speed-ups over it.
  std::ranges::stable_partition(
      types, [](const std::string& t) { return convert::tensor_type(t, "--type") == Type::kF32; });
  for (const std::string& name : types) {
    const Type type = convert::tensor_type(name, "--type");
    if (shape.in % tensor::info(type).block != 0) continue;
    Trial trial(type, shape, arithmetic, size_t(o.megabytes) << 20, most, pool);
    trial.seconds(1);  // warm-up: pages and clocks
    for (const int rows : o.rows) {
      if (line.due()) line.show(text + " " + name + " " + std::to_string(rows) + " rows");
      std::vector<double> samples, bandwidths, fractions;
      const double by_sums = elements * rows / compute.at(type);
      double before = reading.pass(pool);
      for (int i = 0; i < o.repeats; ++i) {
        samples.push_back(trial.seconds(rows));
        const double after = reading.pass(pool);
        bandwidths.push_back(0.5 * (before + after));
        fractions.push_back(std::max(double(trial.matrix_bytes()) / bandwidths.back(), by_sums) /
                            samples.back());
        before = after;
      }
      const Spread s = spread_of(samples);
      const double bandwidth = spread_of(bandwidths).median;
      if (type == Type::kF32) dense[rows] = s.median;
      const double by_bytes = double(trial.matrix_bytes()) / bandwidth;
      Json j{{"type", tensor::info(type).name},
             {"rows", rows},
             {"microseconds", 1e6 * s.median},
             {"low", 1e6 * s.low},
             {"high", 1e6 * s.high},
             {"gmac_s", elements * rows / s.median * 1e-9},
             {"gb_s", double(trial.matrix_bytes()) / s.median * 1e-9},
             {"read_gb_s", bandwidth * 1e-9},
             {"roof_fraction", spread_of(fractions).median},
             {"bound", by_bytes > by_sums ? "memory" : "compute"}};
      if (dense.contains(rows)) j["over_f32"] = dense[rows] / s.median;
      results.push_back(std::move(j));
    }
  }
  return {{"shape", {shape.out, shape.in}}, {"results", std::move(results)}};
}

void print_shape(const Json& shape) {
  std::printf("\n%d x %d (outputs x inputs)\n  %-6s %5s %12s %10s %9s %9s %8s %9s %9s\n",
              shape["shape"][0].get<int>(), shape["shape"][1].get<int>(), "type", "rows",
              "microseconds", "GMAC/s", "GB/s", "reading", "of roof", "bound", "over F32");
  for (const Json& j : shape["results"]) {
    std::printf("  %-6s %5d %12.1f %10.1f %9.1f %9.1f %6.0f %% %9s",
                j["type"].get<std::string>().c_str(), j["rows"].get<int>(),
                j["microseconds"].get<double>(), j["gmac_s"].get<double>(), j["gb_s"].get<double>(),
                j["read_gb_s"].get<double>(), 100 * j["roof_fraction"].get<double>(),
                j["bound"].get<std::string>().c_str());
    if (j.contains("over_f32")) std::printf(" %9.2f", j["over_f32"].get<double>());
    std::printf("\n");
  }
}

// Of the last shape, usually the largest: each type's speed and the roof above it.
std::string plot_of(const Json& shape, const std::string& title,
                    const std::map<Type, double>& compute) {
  eval::Plot plot(title, "rows", "GMAC/s");
  const double elements = shape["shape"][0].get<double>() * shape["shape"][1].get<double>();
  std::map<std::string, std::vector<std::pair<double, double>>> lines;
  for (const Json& j : shape["results"]) {
    const std::string type = j["type"];
    const double rows = j["rows"], speed = j["gmac_s"];
    lines[type].emplace_back(rows, speed);
    const double bytes = j["gb_s"].get<double>() * j["microseconds"].get<double>() * 1e3;
    const double most =
        std::max(bytes * 1e-9 / j["read_gb_s"].get<double>(),
                 elements * rows / compute.at(convert::tensor_type(type, "--type")));
    lines[type + " roof"].emplace_back(rows, elements * rows / most * 1e-9);
  }
  for (auto& [name, points] : lines) plot.add_line(name, std::move(points));
  return plot.svg();
}

void bench_matmul(const MatmulOptions& o) {
  for (const int r : o.rows) {
    if (r < 1 || r > 4096)
      throw Error(ErrorKind::kUsage, "--rows: " + std::to_string(r) + " is not in 1 ... 4096");
  }
  for (const std::string& shape : o.shapes) shape_of(shape);
  ComputePool pool(o.threads > 0 ? o.threads : available_cores());
  ProgressLine line(o.quiet);
  ReadLoop reading(size_t(1) << 30);
  const double dots = compute_peak(pool, tensor::Peak::kDots);
  const tensor::Arithmetic arithmetic = tensor::find_arithmetic(o.arithmetic).value();
  std::map<Type, double> compute;
  for (const std::string& name : o.types) {
    const Type type = convert::tensor_type(name, "--type");
    compute[type] = compute_peak(pool, peak_of(type, arithmetic));
  }
  const std::string isa(tensor::name(tensor::kernels().isa));
  Json shapes = Json::array(), roofs = Json::object();
  for (const auto& [type, speed] : compute)
    roofs[std::string(tensor::info(type).name)] = speed * 1e-9;
  if (!o.json) {
    std::printf(
        "%s, %s, %d threads, %d MiB of weights, median of %d\npeak %.0f GMAC/s of bytes; GMAC/s of "
        "each type's arithmetic from registers:",
        isa.c_str(), o.arithmetic.c_str(), pool.threads(), o.megabytes, o.repeats, dots * 1e-9);
    for (const auto& [name, speed] : roofs.items())
      std::printf(" %s %.0f", name.c_str(), speed.get<double>());
    std::printf("\n");
  }
  for (const std::string& text : o.shapes) {
    shapes.push_back(measure_shape(text, o, pool, arithmetic, reading, compute, line));
    line.clear();
    if (!o.json) print_shape(shapes.back());
  }
  if (!o.svg.empty()) {
    write_file_atomically(o.svg, plot_of(shapes.back(),
                                         "products, " + o.shapes.back() + " (" + isa + ", " +
                                             std::to_string(pool.threads()) + " threads)",
                                         compute));
  }
  if (!o.json) return;
  const Json document{{"isa", isa},
                      {"arithmetic", o.arithmetic},
                      {"threads", pool.threads()},
                      {"megabytes", o.megabytes},
                      {"repeats", o.repeats},
                      {"peak_dots_gmac_s", dots * 1e-9},
                      {"peak_gmac_s", std::move(roofs)},
                      {"shapes", std::move(shapes)}};
  std::cout << print_json(document) << '\n';
}

}  // namespace

void add_bench_matmul(CLI::App& bench) {
  auto o = std::make_shared<MatmulOptions>();
  CLI::App* command = bench.add_subcommand(
      "matmul", "products of matrices by type and rows, and the machine's roofs");
  command->footer(
      "Weights are as many matrices as make --megabytes, so that no cache holds them; the rows' "
      "quantisation is part of\n"
      "the time. The roof of a line is the greater of its weights' bytes at the measured read "
      "bandwidth and its\n"
      "multiply-adds at the speed that its arithmetic has in registers: bytes' dot products with "
      "the "
      "scaling of every\n"
      "block that exact-q8 asks for, or those alone (w8a8-row); multiply-adds of fp32 or of bf16.");
  command->add_option("--shape", o->shapes, "OUTxIN, separated by commas")
      ->delimiter(',')
      ->default_str("1536x576,576x1536,4096x4096,11008x4096");
  command->add_option("--type", o->types, "types of weights, separated by commas")
      ->delimiter(',')
      ->default_str("Q4_0,Q8_0,BF16,F32");
  command->add_option("--rows", o->rows, "numbers of rows, separated by commas")
      ->delimiter(',')
      ->default_str("1,2,4,8,16,32,64,128");
  command->add_option("--arithmetic", o->arithmetic, "class of the products, as of other commands")
      ->check(CLI::IsMember(arithmetic_names()))
      ->capture_default_str();
  command->add_option("--megabytes", o->megabytes, "of weights of each type and shape")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  command->add_option("--repeats", o->repeats, "measurements; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("-t,--threads", o->threads, "compute threads; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_option("--svg", o->svg, "write a plot of the last shape, with its roofs");
  command->add_flag("-q,--quiet", o->quiet, "no progress on stderr");
  command->callback([o] { bench_matmul(*o); });
}

}  // namespace tutti::cli
