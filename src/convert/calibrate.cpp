#include "convert/calibrate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "convert/hessian.h"
#include "models/model.h"
#include "models/tensor_layout.h"
#include "models/transformer.h"
#include "models/weight_loader.h"
#include "tensor/quantise.h"

namespace tutti::convert {
namespace {

using models::RowOps;
using models::RowVector;
using models::RowWeights;
using models::StoredTensor;
using tensor::Matrix;
using tensor::Type;
using RowLinear = models::Linear<Matrix, RowVector>;
using StoredLayer = models::LayerWeights<StoredTensor, StoredTensor>;
using RowLayer = models::LayerWeights<Matrix, RowVector>;

// The matrices of a layer that read the same rows, in the order in which rows reach them.
enum Stage : int { kQkv, kO, kGateUp, kDown, kOutput };

struct Linear {
  Stage stage;
  models::Linear<StoredTensor, StoredTensor> StoredLayer::* stored;
  RowLinear RowLayer::* packed;
  std::string models::TensorLayout::* name;
  bool rotated;  // a rotary embedding turns its outputs
  bool queries;  // and they are those of the query heads
};

const std::array<Linear, 7> kLinears = {{
    {kQkv, &StoredLayer::q, &RowLayer::q, &models::TensorLayout::q, true, true},
    {kQkv, &StoredLayer::k, &RowLayer::k, &models::TensorLayout::k, true, false},
    {kQkv, &StoredLayer::v, &RowLayer::v, &models::TensorLayout::v, false, false},
    {kO, &StoredLayer::o, &RowLayer::o, &models::TensorLayout::o, false, false},
    {kGateUp, &StoredLayer::gate, &RowLayer::gate, &models::TensorLayout::gate, false, false},
    {kGateUp, &StoredLayer::up, &RowLayer::up, &models::TensorLayout::up, false, false},
    {kDown, &StoredLayer::down, &RowLayer::down, &models::TensorLayout::down, false, false},
}};

// The operations of a forward up to a stage: the rows that reach it go into a Hessian, and what
// comes after is not computed. At kOutput everything is.
class ObservedOps {
 public:
  using Rows = RowOps::Rows;

  ObservedOps(const RowOps::Shared& shared, Worker& worker, Stage stage, Hessian& hessian)
      : ops_(shared, worker), shared_(shared), worker_(worker), stage_(stage), hessian_(hessian) {}

  bool has(const Matrix& m) const { return ops_.has(m); }
  Rows embed(const Matrix& embedding, float scale) { return ops_.embed(embedding, scale); }
  void enter(Rows h, int layer) {
    if (!over_) ops_.enter(h, layer);
  }
  Rows norm_qkv(Rows h, const RowVector& norm, const RowLinear& q, const RowLinear& k,
                const RowLinear& v) {
    const Rows qkv = ops_.norm_qkv(h, norm, q, k, v);
    observe(kQkv, {shared_.space.normed.data(), shared_.config.hidden});
    return qkv;
  }
  void rope_store(int layer, Rows qkv, const RowVector& q_norm, const RowVector& k_norm,
                  const RowVector& segments) {
    if (!over_) ops_.rope_store(layer, qkv, q_norm, k_norm, segments);
  }
  Rows attend(int layer, Rows qkv) {
    if (over_) return qkv;
    const Rows attended = ops_.attend(layer, qkv);
    observe(kO, attended);
    return attended;
  }
  void linear_residual(Rows h, Rows in, const RowLinear& linear, const RowVector& post_norm) {
    if (!over_) ops_.linear_residual(h, in, linear, post_norm);
  }
  Rows norm_gated(Rows h, const RowVector& norm, const RowLinear& gate, const RowLinear& up) {
    if (over_) return h;
    const Rows gated = ops_.norm_gated(h, norm, gate, up);
    observe(kGateUp, {shared_.space.normed.data(), shared_.config.hidden});
    observe(kDown, gated);
    return gated;
  }
  void experts_residual(Rows h, const RowLayer& layer) {
    if (!over_) ops_.experts_residual(h, layer);
  }
  void head(Rows, const RowVector&, const Matrix&) {}  // a layer alone has none

 private:
  void observe(Stage stage, Rows rows) {
    if (stage != stage_) return;
    hessian_.add(worker_, rows.data, size_t(rows.width), shared_.batch.rows());
    over_ = true;
  }

  RowOps ops_;
  const RowOps::Shared& shared_;
  Worker& worker_;
  const Stage stage_;
  Hessian& hessian_;
  bool over_ = false;
};

// One layer as a network of its own, and the windows of text at its input.
class LayerRunner {
 public:
  LayerRunner(const models::Checkpoint& checkpoint, const CalibrationOptions& options,
              std::span<const int32_t> tokens, ComputePool& pool)
      : config_(checkpoint.config()), stored_(checkpoint.weights()), pool_(pool) {
    const size_t window =
        std::min(size_t(options.window), tokens.size() + size_t(options.bos >= 0));
    const size_t taken = window - size_t(options.bos >= 0);
    if (taken < 1)
      throw Error(ErrorKind::kUsage, "calibration: the text has no tokens for a window");
    for (size_t first = 0; first + taken <= tokens.size(); first += taken) {
      std::vector<int32_t> ids;
      if (options.bos >= 0) ids.push_back(options.bos);
      ids.insert(ids.end(), tokens.begin() + long(first), tokens.begin() + long(first + taken));
      inputs_.push_back(embedded(ids));
    }
    plan(int(window));
    const int pages = (int(window) + tensor::kPageSlots - 1) / tensor::kPageSlots;
    layout_ = {tensor::KvType::kF32, 1, config_.kv_heads, config_.head_dim};
    pages_memory_ = tensor::AlignedBytes(layout_.page_bytes() * size_t(pages));
    for (int p = 0; p < pages; ++p)
      pages_.push_back(pages_memory_.data() + layout_.page_bytes() * size_t(p));
  }

  int window() const { return batch_.rows(); }

  void start(int layer) {
    layer_config_ = config_;
    layer_config_.layers = 1;
    if (!config_.sliding.empty()) layer_config_.sliding = {config_.is_sliding(layer)};
    models::StoredWeights one;
    one.layers = {stored_.layers[size_t(layer)]};
    weights_ = models::convert_weights<RowWeights>(
        one, [&](const StoredTensor& t) { return packed(t); },
        [](const StoredTensor& t) { return t.floats(); });
  }
  RowLayer& weights() { return weights_.layers.front(); }

  Matrix packed(const StoredTensor& t) {
    if (t.empty()) return {};
    Matrix matrix = Matrix::allocate(t.type, t.rows, t.cols, tensor::Arithmetic::kExactF32);
    pool_.run([&](Worker& worker) {
      const auto [first, last] = worker.share(matrix.tiles());
      matrix.pack_tiles(t.type, t.data, first, last);
    });
    return matrix;
  }

  // Sends every window through the layer: up to the stage, or, at kOutput, to the input of the next
  // layer.
  void run(Stage stage, Hessian& hessian) {
    static const models::LogitsConsumer nobody = [](int, int, std::span<float>) {};
    const models::KvMemory kv{layout_, pages_.data()};
    static const StoredTensor no_embedding;  // rows enter as vectors
    for (auto& inputs : inputs_) {
      batch_.inputs.swap(inputs);
      batch_.hidden.clear();
      for (int r = 0; stage == kOutput && r < batch_.rows(); ++r)
        batch_.hidden.push_back({r, 1, batch_.inputs[size_t(r)].vector.data()});
      space_.prepare(layer_config_, batch_, pool_.threads());
      const RowOps::Shared shared{tensor::kernels(), layer_config_, batch_, kv,
                                  no_embedding,      nobody,        space_};
      pool_.run([&](Worker& worker) {
        ObservedOps ops(shared, worker, stage, hessian);
        models::forward(ops, layer_config_, weights_);
      });
      batch_.inputs.swap(inputs);
    }
  }

 private:
  std::vector<models::RowInput> embedded(const std::vector<int32_t>& ids) const {
    const StoredTensor& table = stored_.embedding;
    const size_t row = tensor::row_bytes(table.type, table.cols);
    std::vector<models::RowInput> inputs(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= table.rows)
        throw Error(ErrorKind::kUsage,
                    "calibration: token " + std::to_string(ids[i]) + " is not in the vocabulary");
      inputs[i].kind = models::RowInput::kVector;
      inputs[i].vector.resize(size_t(table.cols));
      tensor::dequantise(table.type, table.data.subspan(size_t(ids[i]) * row, row),
                         inputs[i].vector);
      if (config_.embedding_scale != 1.0f)
        tensor::kernels().scale(config_.embedding_scale, table.cols, inputs[i].vector.data());
    }
    return inputs;
  }

  // `rows` rows, row r in slot r; each sees itself and those before it, on sliding layers within
  // the window.
  void plan(int rows) {
    batch_.inputs.resize(size_t(rows));  // so that rows() is right; run() puts windows here
    models::Epoch epoch;
    epoch.last_layer = 1;
    const auto see = [&](int first, int last) {
      models::RunSpan span{int(batch_.runs.size()), 0, last - first};
      for (int at = first; at < last; ++span.count) {
        const int page = at / tensor::kPageSlots, slot = at % tensor::kPageSlots;
        const int count = std::min(tensor::kPageSlots - slot, last - at);
        batch_.runs.push_back({page, uint8_t(slot), uint8_t(count), 0});
        at += count;
      }
      return span;
    };
    for (int r = 0; r < rows; ++r) {
      batch_.positions.emplace_back(r);
      batch_.segments.push_back(0);
      batch_.active.emplace_back();
      batch_.slots.push_back({r / tensor::kPageSlots, r % tensor::kPageSlots});
      epoch.rows.push_back(r);
      epoch.full.push_back(see(0, r + 1));
      if (!config_.sliding.empty())
        epoch.sliding.push_back(see(std::max(0, r + 1 - config_.window), r + 1));
    }
    batch_.epochs.push_back(std::move(epoch));
  }

  const models::Config& config_;
  const models::StoredWeights& stored_;
  ComputePool& pool_;
  std::vector<std::vector<models::RowInput>>
      inputs_;  // per window, hidden states at the input of the layer
  models::Config layer_config_;
  RowWeights weights_;
  models::Batch batch_;
  models::RowWorkspace space_;
  tensor::KvLayout layout_;
  tensor::AlignedBytes pages_memory_;
  std::vector<std::byte*> pages_;
};

LinearReport report_of(const std::string& name, const GptqResult& result) {
  const tensor::Grid& grid = result.grid;
  LinearReport report{name,
                      grid.out,
                      grid.in,
                      grid.group,
                      result.relative_error(),
                      result.relative_nearest_error()};
  std::vector<float> scales = grid.scales;
  std::ranges::sort(scales);
  report.scale_low = scales.front();
  report.scale_median = scales[scales.size() / 2];
  report.scale_high = scales.back();
  return report;
}

// The checked plan: which tensors of the source, by name, are to be put on the grid.
std::map<std::string, size_t> wanted(const Source& source, const ConvertOptions& options,
                                     const models::TensorLayout& layout) {
  const ConvertReport plan = plan_conversion(source, options);
  std::map<std::string, size_t> found;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const std::string& name = plan.tensors[i].name;
    if (plan.tensors[i].to != Type::kQ4_0 || !name.starts_with(layout.layer_prefix)) continue;
    for (const Linear& linear : kLinears) {
      if (name.ends_with("." + layout.*linear.name + ".weight")) found.emplace(name, i);
    }
  }
  if (found.empty()) {
    throw Error(ErrorKind::kUsage,
                source.place +
                    ": no matrix of its layers would become Q4_0, which holds such a grid; give "
                    "Q4_0 as the type");
  }
  return found;
}

}  // namespace

Source on_grid(const Source& source, const ConvertOptions& options,
               const CalibrationOptions& calibration, std::span<const int32_t> tokens,
               ComputePool& pool, const LinearDone& done) {
  constexpr int kBlock = 32;
  const int group = calibration.gptq.group;
  if (group < kBlock || group % kBlock != 0) {
    throw Error(ErrorKind::kUsage,
                "groups of " + std::to_string(group) +
                    " inputs: not a multiple of the 32 that share a scale in the file; give 32, 64 "
                    "or 128");
  }
  const auto checkpoint =
      source.checkpoint
          ? source.checkpoint
          : std::make_shared<const models::Checkpoint>(models::Checkpoint::from_gguf(source.gguf));
  const models::Config& config = checkpoint->config();
  if (config.experts.count > 0) {
    throw Error(ErrorKind::kUnsupported,
                source.place +
                    ": has experts, whose inputs are not followed in calibration; convert it "
                    "without --method");
  }
  if (config.embedding_width > 0) {
    throw Error(
        ErrorKind::kUnsupported,
        source.place +
            ": has no embeddings to calibrate with, being a draft model; convert it without "
            "--method");
  }
  const models::TensorLayout layout = models::gguf_layout(source.facts.architecture);
  const std::map<std::string, size_t> places = wanted(source, options, layout);
  const int pairs = layout.interleaved ? int(config.rope.inverse_frequency.size()) : 0;

  Source result = source;
  std::optional<LayerRunner> runner;
  if (calibration.method == GridMethod::kGptq || !tokens.empty())
    runner.emplace(*checkpoint, calibration, tokens, pool);
  int count = 0;
  for (int l = 0; l < config.layers; ++l) {
    if (runner) runner->start(l);
    for (const Stage stage : {kQkv, kO, kGateUp, kDown}) {
      const std::string at = layout.layer_prefix + std::to_string(l) + ".";
      const auto place_of = [&](const Linear& linear) {
        return linear.stage == stage ? places.find(at + layout.*linear.name + ".weight")
                                     : places.end();
      };
      if (std::ranges::all_of(kLinears,
                              [&](const Linear& x) { return place_of(x) == places.end(); }))
        continue;
      const StoredLayer& stored = checkpoint->weights().layers[size_t(l)];
      std::vector<double> hessian;
      for (const Linear& linear : kLinears) {
        const auto place = place_of(linear);
        if (place == places.end()) continue;
        const StoredTensor& from = (stored.*linear.stored).weight;
        if (hessian.empty() && runner) {
          Hessian sum(from.cols, runner->window());
          runner->run(stage, sum);
          hessian = sum.take();
        } else if (hessian.empty()) {
          hessian.assign(size_t(from.cols) * size_t(from.cols), 0.0);
          for (size_t k = 0; k < size_t(from.cols); ++k) hessian[k * size_t(from.cols) + k] = 1;
        }
        const std::vector<float> w = from.floats();
        const auto finite = [](auto x) { return std::isfinite(x); };
        if (!std::ranges::all_of(w, finite) || !std::ranges::all_of(hessian, finite)) {
          throw Error(ErrorKind::kBadFile,
                      source.place + ": tensor \"" + place->first +
                          "\": it or its inputs hold values that are no finite numbers; the "
                          "model is damaged");
        }
        const GptqResult quantised =
            calibration.method == GridMethod::kGptq
                ? gptq(w, from.rows, from.cols, hessian, calibration.gptq, pool)
                : nearest(w, from.rows, from.cols, hessian, group, pool);
        if (!std::ranges::all_of(quantised.grid.scales, finite)) {
          throw Error(ErrorKind::kBadFile,
                      source.place + ": tensor \"" + place->first +
                          "\": holds values too large for Q4_0; convert to BF16 or F32");
        }
        tensor::StoredGrid blocks = tensor::stored(quantised.grid);
        const auto bytes = std::make_shared<std::vector<std::byte>>(std::move(blocks.rows));
        result.owned.push_back(bytes);
        if (runner) {
          // Later stages and layers see the layer as it will be.
          (runner->weights().*linear.packed).weight =
              runner->packed({blocks.type, from.rows, from.cols, *bytes, from.name});
        }
        // Rows are in the checkpoint's order, from which SourceTensor takes those of a rotary
        // embedding in pairs.
        SourceTensor& to = result.tensors[place->second];
        to.parts = {{blocks.type, *bytes}};
        to.facts.stored = blocks.type;
        to.pairs = linear.rotated ? pairs : 0;
        to.heads = !linear.rotated || pairs == 0 ? 0
                   : linear.queries              ? config.heads
                                                 : config.kv_heads;
        if (done) done(report_of(place->first, quantised), ++count, int(places.size()));
      }
    }
    Hessian none;
    if (runner) runner->run(kOutput, none);
  }
  return result;
}

}  // namespace tutti::convert
