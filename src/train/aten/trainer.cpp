#include "train/aten/trainer.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "models/find_model.h"
#include "models/weight_names.h"
#include "train/aten/autocast.h"
#include "train/aten/device.h"
#include "train/aten/distil_loss.h"
#include "train/aten/head_loss.h"
#include "train/aten/judge.h"
#include "train/aten/reference_sampler.h"
#include "train/aten/target_parts.h"
#include "train/problems.h"

namespace tutti::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ModelShape shape_from(const Recipe& recipe, const Vocabulary& vocabulary,
                      const std::optional<models::Checkpoint>& checkpoint) {
  const ModelRecipe& m = recipe.model;
  ModelShape s;
  if (checkpoint) {
    s = shape_of(*checkpoint, m.family);
    if (s.block == 0) s.block = m.block;
    if (m.context > 0) s.context = m.context;
    if (s.mask_token < 0) s.mask_token = vocabulary.mask;
    if (vocabulary.tokenizer.vocab_size() > s.vocab) {
      throw Error(ErrorKind::kUsage,
                  "model.from: has " + std::to_string(s.vocab) + " embeddings, but the tokenizer " +
                      std::to_string(vocabulary.tokenizer.vocab_size()) + " tokens");
    }
  } else {
    s = {m.family,       m.layers,        m.hidden,
         m.heads,        m.kv_heads,      m.head_dim,
         m.intermediate, m.context,       int(vocabulary.tokenizer.vocab_size()),
         m.rope_theta,   m.norm_epsilon,  m.tied_head,
         m.block,        vocabulary.mask, -1};
    if (!m.head_tokens.empty()) s.head_tokens = read_head_tokens(m.head_tokens);
  }
  s.eos_token = vocabulary.end;
  if (recipe.data.length > s.context) {
    throw Error(ErrorKind::kUsage, "data.length: " + std::to_string(recipe.data.length) +
                                       " is more than the model's context of " +
                                       std::to_string(s.context));
  }
  return s;
}

// As the folder has it. XLNet's projections are stored from input to heads, its other parts of
// heads in their own shapes.
at::Tensor as_stored(const ShapedConfig& shaped, const std::string& name, const at::Tensor& t) {
  const models::Config& c = shaped.config;
  if (!c.relative) return t;
  const auto ends = [&](const std::string& part) { return name.ends_with("." + part); };
  const models::TensorLayout& l = shaped.layout;
  if (ends(l.q) || ends(l.k) || ends(l.v) || ends(l.relative))
    return t.t().contiguous().view({c.hidden, c.heads, c.head_dim});
  if (ends(l.o)) return t.view({c.hidden, c.heads, c.head_dim});
  if (name == l.mask) return t.view({1, 1, c.hidden});
  if (ends(l.segment_keys)) return t.view({2, c.heads, c.head_dim});
  if (ends(l.content_bias) || ends(l.position_bias) || ends(l.segment_bias))
    return t.view({c.heads, c.head_dim});
  return t;
}

int64_t elements(const std::vector<Parameter>& parameters) {
  int64_t n = 0;
  for (const Parameter& p : parameters) n += p.tensor.numel();
  return n;
}

// What the family asks for and the weights lack: biases of q, k and v (model_shape.h).
void add_biases(models::TensorWeights& weights, const models::TensorLayout& layout) {
  if (layout.qkv_bias != models::Presence::kRequired) return;
  for (auto& l : weights.layers) {
    for (auto* linear : {&l.q, &l.k, &l.v}) {
      if (!linear->bias.defined()) linear->bias = at::zeros({linear->weight.size(0)}, at::kFloat);
    }
  }
}

HeadRows head_rows(std::span<const LossSequence> sequences) {
  HeadRows rows;
  for (const LossSequence& s : sequences) {
    rows.targets.insert(rows.targets.end(), s.targets.begin(), s.targets.end());
    for (const double w : s.weights) rows.weights.push_back(float(w));
  }
  return rows;
}

// Of kCertainty: for each sequence, certainty times the mean entropy of the predictions that are
// right. Which ones are right is a constant.
void weigh_entropies(std::span<const LossSequence> sequences, const HeadView& view, HeadRows& rows,
                     StepReport& report) {
  for (size_t first = 0, i = 0; i < sequences.size(); first += sequences[i].targets.size(), ++i) {
    const size_t n = sequences[i].targets.size();
    const auto begin = view.right.begin() + ptrdiff_t(first);
    const auto count = double(std::count(begin, begin + ptrdiff_t(n), true));
    for (size_t j = first; j < first + n; ++j) {
      rows.entropy_weights.push_back(view.right[j] ? float(sequences[i].certainty / count) : 0.0f);
      if (view.right[j]) report.entropy += double(view.entropies[j]);
    }
    report.right += count;
  }
}

}  // namespace

Trainer::Trainer(const Recipe& recipe)
    : recipe_(recipe),
      device_(training_device(recipe.device)),
      vocabulary_(make_vocabulary(recipe.tokenizer)) {
  std::optional<models::Checkpoint> checkpoint;
  if (!recipe.model.from.empty())
    checkpoint = models::Checkpoint::open(models::find_model(recipe.model.from));
  shape_ = shape_from(recipe_, vocabulary_, checkpoint);
  if (!recipe.model.draft_of.empty()) {
    target_embeddings_ = target_embeddings(recipe.model.draft_of);
    shape_.embedding_width = int(target_embeddings_.size(1));
    shape_.vocab = int(target_embeddings_.size(0));
  }
  shaped_ = shaped_config(shape_);
  check_loss(recipe_.loss, shaped_.config);
  examples_ = make_examples(recipe_.data, recipe_.seed, vocabulary_);
  weights_ = checkpoint ? models::tensor_weights(*checkpoint, at::kFloat)
                        : initial_weights(shaped_, recipe_.model, recipe_.seed);
  if (target_embeddings_.defined()) begin_with_target();
  add_biases(weights_, shaped_.layout);
  move_weights();
  if (recipe_.lora.rank > 0) {
    lora_.emplace(recipe_.lora, weights_, shaped_.layout, recipe_.seed, recipe_.bf16);
    if (lora_->parameters().empty()) {
      throw Error(ErrorKind::kUsage, "lora.first_layer: the model has only " +
                                         std::to_string(shape_.layers) + " layers; lower it");
    }
  }
  guesser_ = make_guesser(recipe_, shaped_.config, weights_, vocabulary_);
  trained_ = guesser_ ? guesser_->parameters()
             : lora_  ? lora_->parameters()
                      : parameters_of(weights_, shaped_.layout);
  optimiser_.emplace(recipe_.optimiser, trained_);
  for (const Parameter& p : trained_) {
    values_.push_back(p.tensor);
    if (recipe_.ema > 0) averages_.push_back(p.tensor.detach().clone());
  }
}

// Tokens that the target embeds alike begin alike, in what the network reads and in what it says.
void Trainer::begin_with_target() {
  const int64_t hidden = shaped_.config.hidden;
  if (hidden >= target_embeddings_.size(1)) return;  // there is nothing to choose
  weights_.embedding = principal_directions(target_embeddings_, hidden);
  at::Tensor said = target_embeddings_;
  if (const auto& tokens = shaped_.config.head_tokens; !tokens.empty())
    said = said.index_select(0, at::tensor(tokens, at::kInt));
  const at::Tensor head = said.matmul(weights_.embedding.t());
  weights_.head = head * (recipe_.model.deviation / head.std().item<double>());
}

void Trainer::move_weights() {
  models::for_each_tensor(weights_, shaped_.layout, [&](const std::string&, at::Tensor& t) {
    if (t.defined()) t = t.to(device_);
  });
  if (target_embeddings_.defined()) target_embeddings_ = target_embeddings_.to(device_);
}

int64_t Trainer::parameters() const { return elements(parameters_of(weights_, shaped_.layout)); }
int64_t Trainer::trained_parameters() const { return elements(trained_); }

models::TensorWeights Trainer::weights_of(const std::vector<at::Tensor>& values) const {
  if (guesser_) return weights_;
  if (lora_) return lora_->merged(weights_, values);
  models::TensorWeights w = weights_;
  size_t next = 0;
  models::for_each_tensor(w, shaped_.layout, [&](const std::string&, at::Tensor& t) {
    if (t.defined()) t = values[next++];
  });
  return w;
}

const std::vector<at::Tensor>& Trainer::saved_values() const {
  return averages_.empty() ? values_ : averages_;
}

models::TensorWeights Trainer::saved_weights() const {
  const at::NoGradGuard no_gradients;
  return weights_of(saved_values());
}

at::Tensor Trainer::states_of(std::span<const LossSequence> sequences) const {
  std::vector<Sequence> rows;
  std::vector<int> predicted;
  int base = 0;
  for (const LossSequence& s : sequences) {
    for (const int row : s.predicted) predicted.push_back(base + row);
    rows.push_back(s.sequence);
    base += s.sequence.rows();
  }
  models::Batch batch = plan_batch(shaped_.config, rows);
  batch.head_rows = std::move(predicted);
  models::TensorKv nothing(shaped_.config, 0, at::kFloat, device_);
  const Autocast autocast(recipe_.bf16, device_);
  if (target_embeddings_.defined()) {
    models::TensorWeights weights = weights_of(values_);
    weights.embedding = mapped_embeddings(target_embeddings_, weights.embedding, batch);
    return models::tensor_states(shaped_.config, weights, batch, nothing);
  }
  return lora_ ? models::tensor_states(shaped_.config, lora_->frozen(), batch, nothing,
                                       lora_->beside(values_))
               : models::tensor_states(shaped_.config, weights_of(values_), batch, nothing);
}

at::Tensor Trainer::loss_of(std::span<const LossSequence> sequences, at::Tensor states,
                            StepReport& report) const {
  HeadRows rows = head_rows(sequences);
  HeadOptions options;
  if (recipe_.loss.never_mask_logit && recipe_.loss.kind != LossKind::kNextToken)
    options.never = shaped_.config.mask_token;
  // With adapters both are frozen; else they are the trained tensors themselves.
  at::Tensor head = weights_.head.defined() ? weights_.head : weights_.embedding;
  if (weights_.head_bias.defined()) {
    // A bias is one more column, and one more state that is always 1.
    head = at::cat({head, weights_.head_bias.unsqueeze(1)}, 1);
    states = at::cat({states, at::ones({states.size(0), 1}, states.options())}, 1);
  }
  if (recipe_.loss.kind == LossKind::kCertainty) {
    options.temperature = recipe_.loss.certainty_temperature;
    weigh_entropies(sequences, head_view(states, head, rows.targets, options), rows, report);
  }
  if (!shaped_.config.head_tokens.empty()) name_head_rows(shaped_.config.head_tokens, rows);
  return head_loss(states, head, rows, options);
}

at::Tensor Trainer::guess_loss(std::span<const LossSequence> sequences) const {
  const Guesser::States states = guesser_->states(shaped_.config, sequences, values_, recipe_.bf16);
  const HeadRows rows = head_rows(sequences);
  const at::Tensor& head = weights_.head.defined() ? weights_.head : weights_.embedding;
  return recipe_.loss.from_teacher ? distil_loss(states.student, states.teacher, head, rows.weights)
                                   : head_loss(states.student, head, rows, {});
}

void Trainer::backward(std::span<const LossSequence> sequences, StepReport& report) {
  const bool any =
      std::ranges::any_of(sequences, [](const auto& s) { return !s.predicted.empty(); });
  if (!any) return;  // nothing was masked
  const at::Tensor loss = guesser_
                              ? guess_loss(sequences)
                              : loss_of(sequences, states_of(sequences).to(at::kFloat), report);
  loss.backward();
  report.loss += loss.item<double>();
}

void Trainer::average() {
  const at::NoGradGuard no_gradients;
  for (size_t i = 0; i < averages_.size(); ++i) averages_[i].lerp_(values_[i], 1 - recipe_.ema);
}

Trainer::Taken Trainer::take_examples() {
  Taken taken;
  for (int forward = 0; forward < recipe_.accumulate; ++forward) {
    size_t count = 0;
    for (size_t tokens = 0;; ++count) {
      if (recipe_.sequences > 0 && count == size_t(recipe_.sequences)) break;
      Example next = examples_->at(next_example_);
      tokens += next.tokens.size();
      if (recipe_.sequences == 0 && tokens > size_t(recipe_.tokens)) break;
      taken.examples.push_back(std::move(next));
      ++next_example_;
    }
    taken.forwards.push_back(count);
  }
  return taken;
}

StepReport Trainer::train_step(std::vector<LossSequence>* noise) {
  const auto start = Clock::now();
  const uint64_t first_example = next_example_;
  const Taken taken = take_examples();
  std::vector<LossSequence> sequences =
      loss_sequences(recipe_.loss, shaped_.config, taken.examples, recipe_.seed, first_example);
  StepReport report;
  report.steps = recipe_.steps;
  for (const LossSequence& s : sequences) {
    report.tokens += s.sequence.rows();
    report.predicted += int64_t(s.predicted.size());
  }
  std::span<const LossSequence> rest = sequences;
  for (const size_t examples : taken.forwards) {
    const size_t together = examples * (sequences.size() / taken.examples.size());
    backward(rest.first(together), report);
    rest = rest.subspan(together);
  }
  report.entropy = report.right > 0 ? report.entropy / report.right : 0;
  report.right = report.predicted > 0 ? report.right / double(report.predicted) : 0;
  if (!std::isfinite(report.loss)) {
    throw Error(ErrorKind::kLimit,
                "train: the loss of step " + std::to_string(step_ + 1) +
                    " is no number; lower optimiser.learning_rate or set optimiser.clip");
  }
  report.learning_rate =
      recipe_.optimiser.learning_rate * schedule_factor(recipe_.schedule, step_, recipe_.steps);
  report.gradient_norm = optimiser_->step(report.learning_rate);
  average();
  report.step = ++step_;
  report.seconds = seconds_since(start);
  if (noise) *noise = std::move(sequences);
  return report;
}

EvaluationReport Trainer::evaluate() {
  const auto start = Clock::now();
  if (guesser_) {
    judged_ = judge();
    EvaluationReport report;
    report.step = step_;
    report.guesses = judged_;
    report.seconds = seconds_since(start);
    return report;
  }
  const auto source = make_problems(recipe_.data.generator);
  EvaluationReport report;
  report.step = step_;
  report.problems = recipe_.evaluation.problems;
  std::vector<Problem> problems;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < report.problems; ++i) {
    problems.push_back(problem_at(*source, recipe_.seed, true, uint64_t(i)));
    prompts.push_back(vocabulary_.tokenizer.encode(problems.back().prompt));
  }
  SamplerOptions options;
  options.length = recipe_.data.length;
  options.block = shaped_.config.attention_block;
  options.steps = recipe_.evaluation.steps;
  const auto sequences = reference_sample(shaped_.config, saved_weights(), prompts, options);
  for (size_t i = 0; i < problems.size(); ++i) {
    const auto begin = sequences[i].begin() + ptrdiff_t(prompts[i].size());
    const std::vector<int32_t> answer(begin, std::find(begin, sequences[i].end(), vocabulary_.end));
    const std::string written = vocabulary_.tokenizer.decode(answer);
    if (source->solves(problems[i], written)) {
      ++report.solved;
    } else if (report.prompt.empty()) {
      report.prompt = problems[i].prompt;
      report.expected = problems[i].answer;
      report.written = written;
    }
  }
  report.seconds = seconds_since(start);
  return report;
}

GuessReport Trainer::judge() const {
  const at::Tensor& head = weights_.head.defined() ? weights_.head : weights_.embedding;
  std::vector<Example> texts;
  DataRecipe held_out = recipe_.data;
  held_out.jsonl = recipe_.evaluation.held_out;
  held_out.text.clear();
  held_out.generator.clear();
  const auto source = make_examples(held_out, recipe_.seed, vocabulary_);
  for (int i = 0; i < recipe_.evaluation.problems; ++i) texts.push_back(source->at(uint64_t(i)));
  return judge_guesser(*guesser_, shaped_.config, recipe_, texts, saved_values(), head);
}

RunState Trainer::state() const {
  RunState s;
  s.step = step_;
  s.examples = int64_t(next_example_);
  s.recipe = recipe_.text;
  s.machine = machine_text(device_);
  for (size_t i = 0; i < trained_.size(); ++i) {
    s.tensors["weight." + trained_[i].name] = trained_[i].tensor;
    if (!averages_.empty()) s.tensors["average." + trained_[i].name] = averages_[i];
  }
  for (const auto& [name, tensor] : optimiser_->state()) s.tensors["optimiser." + name] = tensor;
  return s;
}

void Trainer::restore(const RunState& state) {
  const at::NoGradGuard no_gradients;
  const auto put = [&](at::Tensor to, const std::string& name) {
    const auto found = state.tensors.find(name);
    if (found == state.tensors.end() || found->second.sizes() != to.sizes()) {
      throw Error(ErrorKind::kBadFile, "state: has no tensor " + name +
                                           " of the recipe's shape; it belongs to another "
                                           "recipe, start anew without --resume");
    }
    to.copy_(found->second);
  };
  NamedTensors moments;
  for (const auto& [name, tensor] : state.tensors) {
    if (name.starts_with("optimiser.")) moments[name.substr(10)] = tensor;
  }
  for (size_t i = 0; i < trained_.size(); ++i) {
    put(trained_[i].tensor, "weight." + trained_[i].name);
    if (!averages_.empty()) put(averages_[i], "average." + trained_[i].name);
  }
  optimiser_->restore(moments);
  step_ = state.step;
  next_example_ = state.examples >= 0 ? uint64_t(state.examples)
                                      : uint64_t(step_) * uint64_t(recipe_.sequences) *
                                            uint64_t(recipe_.accumulate);
}

void Trainer::save_model(const std::filesystem::path& folder) const {
  if (guesser_) return;  // the network is as it was
  const models::TensorWeights weights = saved_weights();
  NamedTensors tensors;
  for (const Parameter& p : parameters_of(weights, shaped_.layout))
    tensors[p.name] = as_stored(shaped_, p.name, p.tensor);
  std::filesystem::create_directories(folder);
  write_tensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(folder / "config.json", config_json(shape_).dump(1) + "\n");
  write_file_atomically(folder / "tokenizer.json", vocabulary_.files.tokenizer_json);
  if (!vocabulary_.files.tokenizer_config_json.empty()) {
    write_file_atomically(folder / "tokenizer_config.json",
                          vocabulary_.files.tokenizer_config_json);
  }
}

void Trainer::save_adapter(const std::filesystem::path& folder) const {
  if (guesser_) guesser_->save(folder, saved_values(), recipe_.model.from, judged_);
  if (!lora_) return;
  std::filesystem::create_directories(folder);
  write_tensors(folder / "adapter_model.safetensors", lora_->peft_tensors(saved_values()),
                {{"format", "pt"}});
  write_file_atomically(folder / "adapter_config.json",
                        lora_->peft_config(recipe_.model.from).dump(1) + "\n");
}

}  // namespace tutti::train
