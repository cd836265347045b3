#include "vision/aten/vision_trainer.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <chrono>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "models/hf_config.h"
#include "train/aten/state.h"
#include "train/schedule.h"
#include "vision/answer_padding.h"
#include "vision/windows.h"

namespace tutti::vision {
namespace {

constexpr const char* kImageTokens[] = {"<|vision_start|>", "<|image_pad|>", "<|vision_end|>"};

train::Vocabulary vocabulary_of(const VisionRecipe& r) {
  text::HfTokenizerFiles files = train::character_tokenizer(
      r.characters, {std::begin(kImageTokens), std::end(kImageTokens)}, r.words);
  text::Tokenizer tokenizer =
      text::Tokenizer::from_hf(files.tokenizer_json, files.tokenizer_config_json);
  train::Vocabulary v{std::move(files), std::move(tokenizer), -1, -1, true};
  v.end = v.tokenizer.eos();
  v.mask = v.tokenizer.mask();
  return v;
}

nlohmann::ordered_json config_json(const VisionRecipe& r, const train::Vocabulary& v, bool causal) {
  std::vector<int> full;
  for (size_t b = 0; b < r.vision.full.size(); ++b) {
    if (r.vision.full[b]) full.push_back(int(b));
  }
  const Preprocessing& p = r.vision.preprocessing;
  return {{"architectures", {"DimpleModel"}},
          {"model_type", "dimple"},
          {"hidden_size", r.hidden},
          {"num_hidden_layers", r.layers},
          {"num_attention_heads", r.heads},
          {"num_key_value_heads", r.kv_heads},
          {"intermediate_size", r.intermediate},
          {"hidden_act", "silu"},
          {"vocab_size", v.tokenizer.vocab_size()},
          {"max_position_embeddings", r.context},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", r.rope_base},
          {"rope_scaling", {{"rope_type", "default"}, {"mrope_section", r.sections}}},
          {"tie_word_embeddings", false},
          {"full_attn_mask", !causal},
          {"eos_token_id", v.end},
          {"mask_token_id", v.mask},
          {"vision_start_token_id", v.tokenizer.find(kImageTokens[0])},
          {"image_token_id", v.tokenizer.find(kImageTokens[1])},
          {"vision_end_token_id", v.tokenizer.find(kImageTokens[2])},
          {"video_token_id", nullptr},
          {"vision_config",
           {{"depth", r.vision.depth},
            {"hidden_size", r.vision.hidden},
            {"intermediate_size", r.vision.intermediate},
            {"num_heads", r.vision.heads},
            {"out_hidden_size", r.vision.out_hidden},
            {"patch_size", p.patch},
            {"spatial_merge_size", p.merge},
            {"temporal_patch_size", p.temporal},
            {"window_size", r.vision.window * p.cell()},
            {"fullatt_block_indexes", full},
            {"hidden_act", "silu"}}}};
}

train::ShapedConfig shaped(const VisionRecipe& r, const train::Vocabulary& v, bool causal) {
  train::ShapedConfig out;
  out.config = models::hf_config(nlohmann::json(config_json(r, v, causal)), "recipe", out.layout);
  return out;
}

// Matrices normal with 1 / sqrt(inputs), what adds to the residual stream smaller; norms 1, biases
// 0.
TowerWeights initial_tower(const VisionConfig& c, uint64_t seed) {
  TowerWeights out;
  for (const TensorShape& t : vision_tensors(c)) {
    const bool bias = t.name.ends_with(".bias");
    if (t.shape.size() == 1) {
      out[t.name] = bias ? at::zeros(t.shape) : at::ones(t.shape);
      continue;
    }
    int64_t inputs = 1;
    for (size_t i = 1; i < t.shape.size(); ++i) inputs *= t.shape[i];
    const bool residual =
        t.name.ends_with("attn.proj.weight") || t.name.ends_with("down_proj.weight");
    const double deviation = 1 / std::sqrt(double(inputs) * (residual ? 2 * c.depth : 1));
    out[t.name] = train::normal_tensor(seed, t.name, t.shape, deviation);
  }
  return out;
}

bool is_trained(const TrainingPhase& phase, const std::string& name) {
  const char* part = name.starts_with("visual.")          ? "tower"
                     : name.starts_with("img_projector.") ? "projector"
                                                          : "text";
  return std::ranges::find(phase.trained, part) != phase.trained.end();
}

// Features of every picture, [cells, hidden] each; pictures of one grid go through together.
std::vector<at::Tensor> features_of(const VisionConfig& config, const TowerWeights& weights,
                                    const std::vector<Patches>& images) {
  std::map<std::pair<int, int>, std::vector<size_t>> by_grid;
  for (size_t i = 0; i < images.size(); ++i)
    by_grid[{images[i].grid.h, images[i].grid.w}].push_back(i);
  std::vector<at::Tensor> out(images.size());
  for (const auto& [_, members] : by_grid) {
    const Grid& grid = images[members.front()].grid;
    std::vector<at::Tensor> values;
    for (const size_t i : members)
      values.push_back(at::tensor(images[i].values).view({grid.patches(), -1}));
    const at::Tensor features = tower_features(config, weights, grid, at::stack(values));
    for (size_t k = 0; k < members.size(); ++k) out[members[k]] = features[int64_t(k)];
  }
  return out;
}

}  // namespace

VisionTrainer::VisionTrainer(VisionRecipe recipe)
    : recipe_(std::move(recipe)),
      vocabulary_(vocabulary_of(recipe_)),
      start_(vocabulary_.tokenizer.find(kImageTokens[0])),
      end_(vocabulary_.tokenizer.find(kImageTokens[2])),
      causal_(shaped(recipe_, vocabulary_, true)),
      full_(shaped(recipe_, vocabulary_, false)) {
  recipe_.vision.image_token = vocabulary_.tokenizer.find(kImageTokens[1]);
  train::ModelRecipe text;
  text.deviation = 1 / std::sqrt(double(recipe_.hidden));
  text_ = train::initial_weights(full_, text, recipe_.seed);
  tower_ = initial_tower(recipe_.vision, recipe_.seed);
}

std::vector<train::Parameter> VisionTrainer::all() const {
  std::vector<train::Parameter> out = train::parameters_of(text_, full_.layout);
  for (const TensorShape& t : vision_tensors(recipe_.vision)) {
    out.push_back({t.name, tower_.at(t.name), t.shape.size() > 1});
  }
  return out;
}

int64_t VisionTrainer::parameters() const {
  int64_t n = 0;
  for (const auto& p : all()) n += p.tensor.numel();
  return n;
}

void VisionTrainer::keep_beginning(const std::string& name) {
  const bool named = std::ranges::any_of(
      recipe_.phases, [&](const TrainingPhase& phase) { return phase.from == name; });
  if (!named) return;
  Beginning& b = beginnings_[name];
  b.drawn = drawn_;
  for (const auto& p : all()) b.weights.push_back(p.tensor.detach().clone());
}

void VisionTrainer::begin(const TrainingPhase& phase) {
  if (phase_) drawn_ += uint64_t(step_) * uint64_t(recipe_.sequences);
  keep_beginning(phase_ ? phase_->name : kUntrained);
  const std::vector<train::Parameter> parameters = all();
  if (!phase.from.empty()) {
    const Beginning& from = beginnings_.at(phase.from);
    drawn_ = from.drawn;
    for (size_t i = 0; i < parameters.size(); ++i)
      parameters[i].tensor.detach().copy_(from.weights[i]);
  }
  phase_ = &phase;
  step_ = 0;
  std::vector<train::Parameter> trained;
  for (const auto& p : parameters) {
    p.tensor.set_requires_grad(false);
    if (is_trained(phase, p.name)) trained.push_back(p);
  }
  train::OptimiserRecipe how;
  how.learning_rate = phase.learning_rate;
  how.clip = phase.clip;
  how.beta2 = 0.99;
  optimiser_ = std::make_unique<train::Optimiser>(how, trained);
}

train::Example VisionTrainer::example(const ShapeProblem& problem, int cells,
                                      uint64_t number) const {
  train::Example e;
  e.tokens.push_back(start_);
  e.tokens.insert(e.tokens.end(), size_t(cells), recipe_.vision.image_token);
  e.tokens.push_back(end_);
  const auto append = [&](const std::string& text) {
    const std::vector<int32_t> ids = vocabulary_.tokenizer.encode(text);
    if (vocabulary_.tokenizer.decode_bytes(ids) != text) {
      throw Error(ErrorKind::kUsage, "recipe: characters: lack one of \"" + text + "\"; add it");
    }
    e.tokens.insert(e.tokens.end(), ids.begin(), ids.end());
  };
  append(problem.question + "?");
  e.prompt = int(e.tokens.size());
  append(problem.answer);
  e.tokens.push_back(vocabulary_.end);
  if (!phase_->answer_padding || phase_->causal) return e;
  DrawKey key;
  key.seed = recipe_.seed;
  key.purpose = Purpose::kProblem;
  key.request = 100;  // apart from the problems' own draws
  key.path = uint32_t(number >> 32);
  key.position = uint32_t(number);
  Draws draws(key);
  const int answer = int(e.tokens.size()) - e.prompt;
  e.tokens.resize(size_t(e.prompt + padded_length(answer, draws)), vocabulary_.end);
  return e;
}

VisionBatch VisionTrainer::batch(int64_t step) const {
  VisionBatch out;
  std::vector<train::Example> examples;
  const uint64_t first = drawn_ + uint64_t(step) * uint64_t(recipe_.sequences);
  while (int(examples.size()) < recipe_.sequences) {
    const uint64_t number = first + examples.size();
    const int questions = std::min(recipe_.questions, recipe_.sequences - int(examples.size()));
    const auto problems = shape_dialogue(recipe_.seed, ShapeSplit::kTrain, number, questions);
    out.images.push_back(patches_of(problems[0].image, recipe_.vision.preprocessing, "shapes"));
    const int cells = out.images.back().grid.cells(recipe_.vision.preprocessing.merge);
    for (size_t i = 0; i < problems.size(); ++i) {
      examples.push_back(example(problems[i], cells, number + i));
      out.tokens.push_back(examples.back().tokens);
      out.pictures.push_back(out.images.size() - 1);
    }
  }
  train::LossOptions loss;
  loss.kind = phase_->causal ? train::LossKind::kNextToken : train::LossKind::kMasked;
  loss.weight = train::TimeWeight::kOne;
  loss.mean = phase_->causal ? train::LossMean::kTokens : train::LossMean::kMasked;
  out.sequences = train::loss_sequences(loss, phase_->causal ? causal_.config : full_.config,
                                        examples, recipe_.seed + drawn_, step);
  return out;
}

at::Tensor VisionTrainer::loss(const VisionBatch& b) const {
  const models::Config& config = phase_->causal ? causal_.config : full_.config;
  const std::vector<at::Tensor> features = features_of(recipe_.vision, tower_, b.images);
  std::vector<train::Sequence> rows;
  for (const auto& s : b.sequences) rows.push_back(s.sequence);
  models::Batch batch = train::plan_batch(config, rows);
  models::TensorInputs inputs;
  inputs.rows.resize(size_t(batch.rows()));
  std::vector<int64_t> targets;
  std::vector<float> weights;
  size_t base = 0;
  for (size_t i = 0; i < b.sequences.size(); ++i) {
    const auto& tokens = b.tokens[i];
    const PromptPositions stands = prompt_positions(tokens, recipe_.vision.image_token,
                                                    std::span(&b.images[b.pictures[i]].grid, 1),
                                                    recipe_.vision.preprocessing.merge);
    int64_t cell = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      batch.positions[base + t] = stands.positions[t];
      if (tokens[t] != recipe_.vision.image_token) continue;
      batch.inputs[base + t].kind = models::RowInput::kVector;
      inputs.rows[base + t] = features[b.pictures[i]][cell++];
    }
    for (size_t k = 0; k < b.sequences[i].predicted.size(); ++k) {
      batch.head_rows.push_back(int(base) + b.sequences[i].predicted[k]);
      targets.push_back(b.sequences[i].targets[k]);
      weights.push_back(float(b.sequences[i].weights[k]));
    }
    base += tokens.size();
  }
  models::TensorKv nothing(config, 0);
  const at::Tensor logits =
      models::tensor_forward(config, text_, batch, nothing, inputs).logits.to(at::kFloat);
  const at::Tensor each =
      at::cross_entropy_loss(logits, at::tensor(targets), {}, at::Reduction::None);
  return (each * at::tensor(weights)).sum();
}

VisionStep VisionTrainer::train_step() {
  const auto start = std::chrono::steady_clock::now();
  VisionStep report;
  report.phase = phase_->name;
  report.steps = phase_->steps;
  const VisionBatch b = batch(step_);
  at::Tensor loss;
  if (recipe_.bf16) {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::increment_nesting();
  }
  loss = this->loss(b);
  if (recipe_.bf16) {
    at::autocast::decrement_nesting();
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  loss.backward();
  report.loss = loss.item<double>();
  if (!std::isfinite(report.loss)) {
    throw Error(ErrorKind::kLimit, "train-vision: the loss of step " + std::to_string(step_ + 1) +
                                       " of " + phase_->name +
                                       " is no number; lower learning_rate");
  }
  train::Schedule schedule;
  schedule.kind = train::Schedule::kLinear;
  schedule.warmup = int64_t(phase_->warmup * double(phase_->steps));
  report.gradient_norm = optimiser_->step(phase_->learning_rate *
                                          train::schedule_factor(schedule, step_, phase_->steps));
  report.step = ++step_;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

void VisionTrainer::save(const std::filesystem::path& folder) const {
  train::NamedTensors tensors;
  for (const auto& p : all()) tensors[p.name] = p.tensor.detach();
  std::filesystem::create_directories(folder);
  train::write_tensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(folder / "config.json",
                        config_json(recipe_, vocabulary_, phase_->causal).dump(1) + "\n");
  const Preprocessing& p = recipe_.vision.preprocessing;
  const nlohmann::ordered_json preprocessor{{"min_pixels", p.min_pixels},
                                            {"max_pixels", p.max_pixels}};
  write_file_atomically(folder / "preprocessor_config.json", preprocessor.dump(1) + "\n");
  write_file_atomically(folder / "tokenizer.json", vocabulary_.files.tokenizer_json);
  write_file_atomically(folder / "tokenizer_config.json", vocabulary_.files.tokenizer_config_json);
}

}  // namespace tutti::vision
