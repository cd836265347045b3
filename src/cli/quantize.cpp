// tutti quantize: a model as a GGUF file of another type.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/session.h"
#include "cli/text_input.h"
#include "convert/calibrate.h"
#include "convert/convert_model.h"
#include "models/find_model.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct QuantizeOptions {
  std::string model, out, type;
  std::vector<std::string> tensor_types;
  std::string output_type, embedding_type, importance;
  std::string method, calibration, order = "natural";
  int group = 32, calibration_tokens = 16384, window = 512, clip = 0;
  double damping = 0.1;
  int threads = 0;
  bool pure = false, leave_output = false, requantize = false, force = false, dry_run = false,
       json = false, quiet = false;
};

std::string name_of(tensor::Type type) { return std::string(tensor::info(type).name); }

convert::TypeRules rules_of(const QuantizeOptions& o) {
  convert::TypeRules rules;
  rules.file_type = convert::file_type(o.type);
  rules.pure = o.pure;
  rules.leave_output = o.leave_output;
  rules.importances = !o.importance.empty();
  if (!o.output_type.empty())
    rules.output = convert::tensor_type(o.output_type, "--output-tensor-type");
  if (!o.embedding_type.empty())
    rules.token_embedding = convert::tensor_type(o.embedding_type, "--token-embedding-type");
  for (const std::string& text : o.tensor_types) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorKind::kUsage,
                  "--tensor-type: \"" + text + "\" is not of the form PATTERN=TYPE");
    }
    rules.overrides.push_back({text::Regex(text.substr(0, equals)),
                               convert::tensor_type(text.substr(equals + 1), "--tensor-type")});
  }
  return rules;
}

std::string shape_of(const convert::TensorReport& t) {
  std::string text = "[";
  for (const uint64_t d : t.dims) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

Json json_of(const convert::TensorReport& t, bool dry_run) {
  Json j{{"name", t.name},
         {"shape", t.dims},
         {"from", name_of(t.from)},
         {"to", name_of(t.to)},
         {"wanted", t.wanted ? Json(name_of(*t.wanted)) : Json()},
         {"bytes_before", t.bytes_before},
         {"bytes", t.bytes}};
  if (dry_run) return j;
  j["copied"] = t.copied;
  j["rms_error"] = t.rms_error();
  j["max_error"] = t.max_error;
  j["relative_rms"] = t.squares > 0 ? std::sqrt(t.square_error / t.squares) : 0.0;
  return j;
}

Json json_of(const convert::LinearReport& t) {
  return {{"name", t.name},
          {"shape", {t.in, t.out}},
          {"group", t.group},
          {"output_error", t.error},
          {"output_error_rtn", t.nearest_error},
          {"scales", {{"low", t.scale_low}, {"median", t.scale_median}, {"high", t.scale_high}}}};
}

Json json_of(const convert::Source& source, const QuantizeOptions& o,
             const convert::ConvertReport& report,
             const std::vector<convert::LinearReport>& linears) {
  Json tensors = Json::array();
  for (const auto& t : report.tensors) tensors.push_back(json_of(t, o.dry_run));
  Json total{{"tensors", report.tensors.size()},
             {"elements", report.elements},
             {"bytes_before", report.bytes_before},
             {"bytes", report.bytes},
             {"bits_per_weight", report.bits_per_weight()}};
  // On a grid, the layers' errors are those of "linears": here they count as copied.
  if (!o.dry_run && o.method.empty()) total["relative_rms"] = report.relative_rms();
  Json j{{"model", source.path.string()},
         {"output", o.out},
         {"type", std::string(convert::file_type(o.type).name)},
         {"dry_run", o.dry_run},
         {"tensors", std::move(tensors)},
         {"total", std::move(total)},
         {"notes", source.notes}};
  if (o.method.empty()) return j;
  j["method"] = o.method;
  j["linears"] = Json::array();
  for (const auto& t : linears) j["linears"].push_back(json_of(t));
  return j;
}

void print_tensor(const convert::TensorReport& t, size_t index, size_t count, bool dry_run) {
  const std::string types = name_of(t.from) + " -> " + name_of(t.to);
  std::printf("[%4zu/%4zu] %-36s %-20s %-14s %9.3f -> %9.3f MiB", index, count, t.name.c_str(),
              shape_of(t).c_str(), types.c_str(), double(t.bytes_before) / (1 << 20),
              double(t.bytes) / (1 << 20));
  if (!dry_run && !t.copied) std::printf("  rms %.3e  max %.3e", t.rms_error(), t.max_error);
  if (t.wanted) {
    std::printf("  (rows of %llu do not fit %s)", static_cast<unsigned long long>(t.dims[0]),
                name_of(*t.wanted).c_str());
  }
  std::printf("\n");
}

void print_totals(const convert::ConvertReport& report, bool with_error) {
  std::printf("%zu tensors, %.2f -> %.2f MiB, %.3f bits a weight", report.tensors.size(),
              double(report.bytes_before) / (1 << 20), double(report.bytes) / (1 << 20),
              report.bits_per_weight());
  if (with_error) std::printf(", relative RMS error %.4e", report.relative_rms());
  std::printf("\n");
}

void print_linear(const convert::LinearReport& t, int done, int total) {
  std::printf(
      "[%4d/%4d] %-36s groups of %-4d output error %.4f (nearest %.4f)  scales %.2e %.2e %.2e\n",
      done, total, t.name.c_str(), t.group, t.error, t.nearest_error, double(t.scale_low),
      double(t.scale_median), double(t.scale_high));
  std::fflush(stdout);
}

// The source with its layers on a grid, as --method asks.
convert::Source on_grid(const convert::Source& source, const QuantizeOptions& o,
                        const convert::ConvertOptions& options, ComputePool& pool,
                        std::vector<convert::LinearReport>& linears) {
  convert::CalibrationOptions calibration;
  calibration.method =
      o.method == "gptq" ? convert::GridMethod::kGptq : convert::GridMethod::kNearest;
  calibration.gptq.group = o.group;
  calibration.gptq.damping = o.damping;
  calibration.gptq.clip = o.clip;
  calibration.gptq.order =
      o.order == "activation" ? convert::InputOrder::kActivation : convert::InputOrder::kNatural;
  calibration.window = o.window;
  if (calibration.method == convert::GridMethod::kGptq && o.calibration.empty()) {
    throw Error(ErrorKind::kUsage,
                "--method gptq: needs text like what the model will read; give --calibration FILE");
  }
  convert::check_conversion(source, o.out, options);
  std::vector<int32_t> tokens;
  if (!o.calibration.empty()) {
    const text::Tokenizer tokenizer = load_tokenizer(o.model);
    tokens = tokenizer.encode(read_input(o.calibration));
    if (tokens.size() > size_t(o.calibration_tokens)) tokens.resize(size_t(o.calibration_tokens));
    if (tokenizer.add_bos_default()) calibration.bos = tokenizer.bos();
    if (tokens.empty())
      throw Error(ErrorKind::kUsage, "--calibration " + o.calibration + ": the text is empty");
  }
  ProgressLine line(o.quiet);
  return convert::on_grid(
      source, options, calibration, tokens, pool,
      [&](const convert::LinearReport& t, int done, int total) {
        linears.push_back(t);
        line.clear();
        if (!o.json) print_linear(t, done, total);
        if (line.due())
          line.show("matrix " + std::to_string(done) + " of " + std::to_string(total));
      });
}

void quantize(const QuantizeOptions& o) {
  convert::ConvertOptions options;
  options.rules = rules_of(o);
  options.allow_requantize = o.requantize;
  options.force = o.force;
  if (o.threads < 0) throw Error(ErrorKind::kUsage, "--threads: must be positive");
  const convert::Importance importance =
      o.importance.empty() ? convert::Importance() : convert::Importance::open(o.importance);
  auto source = convert::Source::open(models::find_model(o.model));
  if (!o.quiet) {
    for (const std::string& note : source.notes)
      std::fprintf(stderr, "tutti: note: %s\n", note.c_str());
  }
  if (o.dry_run) {
    const auto plan = convert::plan_conversion(source, options);
    if (o.json) {
      std::cout << json_of(source, o, plan, {}).dump() << '\n';
      return;
    }
    for (size_t i = 0; i < plan.tensors.size(); ++i)
      print_tensor(plan.tensors[i], i + 1, plan.tensors.size(), true);
    print_totals(plan, false);
    return;
  }
  ComputePool pool(o.threads > 0 ? o.threads : available_cores());
  std::vector<convert::LinearReport> linears;
  if (!o.method.empty()) source = on_grid(source, o, options, pool, linears);
  size_t index = 0;
  const size_t count = source.tensors.size();
  ProgressLine line(o.quiet);
  const auto report = convert::convert_model(
      source, o.out, options, importance, pool,
      [&](const convert::TensorReport& t) {
        ++index;
        line.clear();
        if (o.json) return;
        print_tensor(t, index, count, false);
        std::fflush(stdout);
      },
      [&](const convert::TensorReport& t, double fraction) {
        if (line.due()) line.show(std::to_string(int(100 * fraction)) + " %  " + t.name);
      });
  if (o.json) {
    std::cout << json_of(source, o, report, linears).dump() << '\n';
  } else {
    print_totals(report, o.method.empty());
  }
}

std::string types_help() {
  std::string text = "what the matrices become:";
  for (const convert::FileType& t : convert::file_types()) {
    text += "\n  " + std::string(t.name) + std::string(8 - t.name.size(), ' ') +
            std::string(t.description);
  }
  return text;
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto o = std::make_shared<QuantizeOptions>();
  CLI::App* command =
      app.add_subcommand("quantize", "write a model as a GGUF file of another type");
  command->footer(
      "Reads a GGUF file or a Hugging Face folder (Llama, Mistral, Mixtral, Qwen2, Qwen3, their "
      "MoE kinds, Gemma-2 and\n"
      "-3). Types of tensors follow llama.cpp: norms, biases and routers stay F32; the head (the "
      "embedding, when tied)\n"
      "is Q6_K or better; a row that is no multiple of 256 takes Q5_0 for Q4_K, Q5_1 for Q5_K, "
      "Q8_0 for Q6_K. Options\n"
      "have llama.cpp's names. Example: tutti quantize -m FOLDER model.gguf Q4_K_M --tensor-type "
      "'attn_v=Q8_0'");
  command
      ->add_option("-m,--model", o->model, "a .gguf file, a Hugging Face folder, or a short name")
      ->required()
      ->envname("TUTTI_MODEL");
  command->add_option("out", o->out, "the file to write: whole, or not at all")->required();
  command->add_option("type", o->type, types_help())->required();
  command
      ->add_option("--tensor-type", o->tensor_types,
                   "PATTERN=TYPE: tensors in whose name the expression is found; the first that "
                   "matches decides")
      ->allow_extra_args(false);
  command->add_option("--output-tensor-type", o->output_type,
                      "type of output.weight (of a tied embedding too)");
  command->add_option("--token-embedding-type", o->embedding_type, "type of token_embd.weight");
  command->add_flag("--pure", o->pure, "no mixtures: one type for all matrices");
  command->add_flag("--leave-output-tensor", o->leave_output,
                    "output.weight stays as it is stored");
  command->add_option("--imatrix", o->importance,
                      "importances of columns, a file of llama-imatrix (GGUF form)");
  command
      ->add_option("--method", o->method,
                   "put the layers' matrices on a symmetric 4-bit grid (type Q4_0): rtn rounds to "
                   "nearest, gptq makes "
                   "up for each error with the weights that are still free")
      ->check(CLI::IsMember({"rtn", "gptq"}));
  command
      ->add_option("--group", o->group,
                   "inputs that share a scale: 32, 64, 128 ...; the file repeats it every 32")
      ->capture_default_str();
  command->add_option("--calibration", o->calibration, "text for --method; - reads standard input");
  command
      ->add_option("--calibration-tokens", o->calibration_tokens, "only the first N tokens of it")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--window", o->window, "calibration tokens that see each other")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  command->add_option("--damping", o->damping, "of the Hessian, a part of the mean of its diagonal")
      ->capture_default_str();
  command
      ->add_option("--clip", o->clip,
                   "also try scales shrunk by up to this many per cent (75 is the paper's)")
      ->capture_default_str();
  command
      ->add_option("--order", o->order,
                   "which inputs are decided first: natural, or activation (the largest)")
      ->check(CLI::IsMember({"natural", "activation"}))
      ->capture_default_str();
  command->add_flag("--allow-requantize", o->requantize,
                    "also from quantised tensors, at a loss of quality");
  command->add_flag("--force", o->force, "replace an existing file");
  command->add_flag("--dry-run", o->dry_run, "only say what would be written");
  command->add_option("-t,--threads", o->threads, "compute threads (default: all cores)")
      ->envname("TUTTI_THREADS");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->add_flag("-q,--quiet", o->quiet, "no progress or notes on stderr");
  command->callback([o] { quantize(*o); });
}

}  // namespace tutti::cli
