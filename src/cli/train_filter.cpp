// tutti train-filter: Learn2PD's filter for a masked model, from the model's own answers.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "cli/commands.h"
#include "cli/json_text.h"
#include "cli/progress_line.h"
#include "cli/session.h"
#include "cli/torch_library.h"
#include "eval/filter_data.h"
#include "eval/plot.h"
#include "formats/safetensors.h"
#include "train/filter_training.h"
#include "train/problems.h"

namespace tutti::cli {
namespace {

using Json = nlohmann::ordered_json;

struct FilterOptions {
  ModelOptions model;
  std::string task = "sudoku", out, records, svg;
  int problems = 300, block = 32, tokens = 64;
  train::FilterTrainingRequest training;
  bool no_activation = false, json = false;
};

Json json_of(const decode::diffusion::FilterRecord& r) {
  return {{"step", r.step}, {"confidence", r.probability}, {"is_correct", r.right}};
}

void train_filter(const FilterOptions& o) {
  const auto function =
      reinterpret_cast<train::TrainFilterFunction>(torch_function(train::kTrainFilterFunction));
  const auto task = train::make_problems(o.task);
  Session session(o.model);
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < o.problems; ++i) {
    prompts.push_back(session.tokenizer().encode(
        train::problem_at(*task, o.training.seed, false, uint64_t(i)).prompt));
  }
  decode::GenerationOptions how;
  how.max_tokens = o.tokens;
  const bool blocks = session.model().config().attention == models::AttentionKind::kBlockCausal;
  if (!blocks) how.method_options["block_length"] = std::to_string(o.block);
  ProgressLine line(o.model.quiet);
  const eval::FilterData data =
      eval::collect_filter_data(session.engine(), session.tokenizer(), prompts, how, [&](int done) {
        if (line.due())
          line.show("decoding problem " + std::to_string(done) + " of " +
                    std::to_string(o.problems));
      });
  line.clear();
  if (!o.records.empty()) {
    write_file_atomically(o.records, [&](const Sink& sink) {
      for (const auto& r : data.records) {
        const std::string text = print_json(json_of(r)) + "\n";
        sink(std::as_bytes(std::span(text)));
      }
    });
  }
  train::FilterTrainingRequest request = o.training;
  request.block = blocks ? session.model().config().attention_block : o.block;
  request.relu = !o.no_activation;
  request.threads = session.pool()->threads();
  for (const auto& r : data.records) {
    for (int i = 0; i < request.block; ++i) {
      // Where a block is no more, all is certain.
      const bool there = size_t(i) < r.probability.size();
      request.probabilities.push_back(there ? r.probability[size_t(i)] : 1.0f);
      request.right.push_back(!there || r.right[size_t(i)] ? 1.0f : 0.0f);
    }
  }
  train::FilterTrainingResult result;
  function(request, result);

  const uint64_t n = uint64_t(request.block);
  const auto tensor = [](const char* name, const std::vector<float>& v,
                         std::vector<uint64_t> shape) {
    return formats::SafetensorsTensor{name, formats::Dtype::kF32, std::move(shape),
                                      std::as_bytes(std::span(v))};
  };
  formats::write_safetensors(
      o.out,
      {tensor("l1.weight", result.w1, {n, n}), tensor("l1.bias", result.b1, {n}),
       tensor("l2.weight", result.w2, {n, n}), tensor("l2.bias", result.b2, {n})},
      {{"activation", request.relu && !request.apart ? "relu" : "none"},
       {"block_length", std::to_string(n)},
       {"model", o.model.model},
       {"task", o.task},
       {"records", std::to_string(data.records.size())},
       {"validation_loss", std::to_string(result.epochs.back().validation_loss)}});
  if (!o.svg.empty()) {
    eval::Plot plot("filter for " + o.task, "epoch", "binary cross entropy, nats");
    plot.set_log_x(false);
    std::vector<std::pair<double, double>> train_line, validation_line, false_positives;
    for (const auto& e : result.epochs) {
      train_line.emplace_back(e.epoch, e.loss);
      validation_line.emplace_back(e.epoch, e.validation_loss);
      false_positives.emplace_back(e.epoch, e.false_positives);
    }
    plot.add_line("training", train_line);
    plot.add_line("validation", validation_line);
    plot.add_line("false positives (share)", false_positives);
    write_file_atomically(o.svg, plot.svg());
  }
  const double bound =
      double(data.static_forwards) / double(std::max<uint64_t>(data.oracle_forwards, 1));
  if (o.json) {
    std::cout << print_json({{"records", data.records.size()},
                             {"answers", data.answers},
                             {"static_forwards", data.static_forwards},
                             {"oracle_forwards", data.oracle_forwards},
                             {"oracle_speedup", bound},
                             {"stuck", data.stuck},
                             {"differ", data.differ},
                             {"test_loss", result.test.validation_loss},
                             {"false_positives", result.test.false_positives},
                             {"false_negatives", result.test.false_negatives},
                             {"out", o.out}})
              << '\n';
    return;
  }
  std::printf(
      "%d answers: static %.2f forwards each, oracle %.2f (%.2fx; written from the reference %d "
      "times)\n",
      data.answers, double(data.static_forwards) / data.answers,
      double(data.oracle_forwards) / data.answers, bound, data.stuck);
  std::printf(
      "%zu records; of a tenth that was not trained on, at an output of 0.9: %.2f %% of the "
      "accepted are wrong, "
      "%.2f %% of the refused are right; cross entropy %.4f\nwritten to %s\n",
      data.records.size(), 100 * result.test.false_positives, 100 * result.test.false_negatives,
      result.test.validation_loss, o.out.c_str());
}

}  // namespace

void add_train_filter(CLI::App& app) {
  auto o = std::make_shared<FilterOptions>();
  CLI::App* command =
      app.add_subcommand("train-filter", "train Learn2PD's filter on a masked model's own answers");
  o->model.add_to(*command);
  command->add_option("--task", o->task, train::problem_list())->capture_default_str();
  command->add_option("--problems", o->problems, "how many, none of them held out")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--block-length", o->block, "of the decoding it is for")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("-n,--answer-tokens", o->tokens, "tokens of an answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--out", o->out, "the filter, a safetensors file")->required();
  command->add_option("--records", o->records, "also write what was learned from, as JSON lines");
  command->add_option("--epochs", o->training.epochs, "over all records")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--learning-rate", o->training.learning_rate, "of AdamW")
      ->capture_default_str();
  command->add_option("--seed", o->training.seed, "of problems, weights and the split")
      ->capture_default_str();
  command->add_flag("--no-activation", o->no_activation, "no ReLU between the two layers");
  command->add_flag("--apart", o->training.apart,
                    "the baseline: each position by itself, a learned threshold");
  command->add_option("--svg", o->svg, "write a plot of the losses");
  command->add_flag("--json", o->json, "one JSON document on stdout");
  command->callback([o] { train_filter(*o); });
}

}  // namespace tutti::cli
