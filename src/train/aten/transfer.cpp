#include "train/aten/transfer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "train/anchored.h"
#include "train/aten/autocast.h"
#include "train/aten/lora.h"
#include "train/layer_epochs.h"

namespace tutti::train {
namespace {

std::vector<float> floats(const at::Tensor& t) {
  const at::Tensor flat = t.detach().to(at::kCPU, at::kFloat).contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

}  // namespace

Transfer::Transfer(const LossOptions& options, const models::Config& config,
                   const models::TensorWeights& weights, uint64_t fingerprint, bool bf16)
    : norm_epsilon_(double(config.norm_eps)), frozen_(bf16 ? rounded_layers(weights) : weights) {
  const TransferOptions& o = options.transfer;
  shape_.kind = o.medusa ? TransferMaps::Kind::kMedusa : TransferMaps::Kind::kLinear;
  shape_.hidden = config.hidden;
  shape_.layers = config.layers;
  shape_.vocab = config.vocab;
  shape_.model = fingerprint;
  shape_.refined = o.refined;
  shape_.see_previous = o.see_previous;
  shape_.enter = o.medusa ? std::vector<int>{config.layers} : o.enter;
  shape_.enter.resize(size_t(options.ahead), shape_.enter.front());
  for (const int layer : shape_.enter) {
    if (layer <= config.layers) continue;
    throw Error(ErrorKind::kUsage, "loss.enter: layer " + std::to_string(layer) +
                                       " is beyond the model's " + std::to_string(config.layers));
  }
  const int64_t n = config.hidden;
  const auto options_here = weights.embedding.options();
  for (int i = 0; i < (o.shared ? 1 : options.ahead); ++i) {
    weights_.push_back(o.medusa ? at::zeros({n, n}, options_here) : at::eye(n, options_here));
    if (o.bias) biases_.push_back(at::zeros({n}, options_here));
  }
}

std::vector<Parameter> Transfer::parameters() const {
  std::vector<Parameter> out;
  const auto name = [](size_t i) { return "transfer." + std::to_string(i + 1); };
  for (size_t i = 0; i < weights_.size(); ++i)
    out.push_back({name(i) + ".weight", weights_[i], true});
  for (size_t i = 0; i < biases_.size(); ++i) out.push_back({name(i) + ".bias", biases_[i], false});
  return out;
}

at::Tensor Transfer::normed(const at::Tensor& x, const at::Tensor& weight) const {
  const at::Tensor u = x * (x.pow(2).mean(-1, true) + norm_epsilon_).rsqrt();
  return weight.defined() ? u * weight : u;
}

at::Tensor Transfer::mapped(const std::vector<at::Tensor>& sources,
                            const std::vector<at::Tensor>& values) const {
  std::vector<at::Tensor> by_offset;
  for (size_t i = 0; i < sources.size(); ++i) {
    const size_t map = weights_.size() == 1 ? 0 : i;
    const bool medusa = shape_.kind == TransferMaps::Kind::kMedusa;
    const at::Tensor x = medusa ? normed(sources[i], {}) : sources[i];
    at::Tensor y = x.matmul(values[map].t());
    if (!biases_.empty()) y = y + values[weights_.size() + map];
    by_offset.push_back(medusa ? x + at::silu(y) : y);
  }
  return at::stack(by_offset, 1).flatten(0, 1);
}

Guesser::States Transfer::states(const models::Config& config,
                                 std::span<const LossSequence> sequences,
                                 const std::vector<at::Tensor>& values, bool bf16) const {
  AnchoredParts parts = split_anchored(config, sequences);
  const at::Device device = values.front().device();
  models::TensorKv kv(config, parts.pages, bf16 ? at::kBFloat16 : at::kFloat, device);
  States out;
  std::map<int, std::vector<at::Tensor>> at_layer;  // the anchors' states where rows enter
  {
    const at::NoGradGuard no_gradients;
    const Autocast autocast(bf16, device);
    for (const int layer : shape_.enter) at_layer[layer];
    for (const auto& [layer, states] : at_layer) {
      for (const int row : parts.anchors) parts.texts.hidden.push_back({row, layer, nullptr});
    }
    parts.texts.head_rows = parts.taught_by;
    std::vector<at::Tensor> hidden;
    out.teacher = models::tensor_states(config, frozen_, parts.texts, kv, {}, &hidden);
    out.teacher = out.teacher.to(at::kFloat);
    auto next = hidden.begin();
    for (auto& [layer, states] : at_layer) {
      states.assign(next, next + ptrdiff_t(parts.anchors.size()));
      next += ptrdiff_t(parts.anchors.size());
    }
  }
  std::vector<at::Tensor> sources;
  for (const int layer : shape_.enter) sources.push_back(at::stack(at_layer[layer]).to(at::kFloat));
  const at::Tensor entering = mapped(sources, values);
  if (shape_.kind == TransferMaps::Kind::kMedusa || !shape_.refined) {
    out.student = normed(entering, frozen_.output_norm);
    return out;
  }
  const int offsets = shape_.offsets();
  for (int row = 0; row < parts.chains.rows(); ++row) {
    parts.chains.active[size_t(row)].enter = shape_.enter[size_t(row % offsets)];
    parts.chains.head_rows.push_back(row);
  }
  split_epochs(parts.chains, config.layers, [&](int, int) { return shape_.see_previous; });
  models::TensorInputs inputs;
  inputs.rows = entering.unbind();
  const Autocast autocast(bf16, device);
  out.student = models::tensor_states(config, frozen_, parts.chains, kv, inputs).to(at::kFloat);
  return out;
}

void Transfer::save(const std::filesystem::path& folder, const std::vector<at::Tensor>& values,
                    const std::string& /*base*/, const GuessReport& report) const {
  TransferMaps maps = shape_;
  for (size_t i = 0; i < weights_.size(); ++i) {
    maps.maps.push_back({floats(values[i]), biases_.empty() ? std::vector<float>()
                                                            : floats(values[weights_.size() + i])});
  }
  maps.acceptance = report.acceptance;
  maps.write(folder, /*half=*/true);
}

}  // namespace tutti::train
