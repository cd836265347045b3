#include "decode/diffusion/filter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace tutti::decode::diffusion {
namespace {

std::vector<float> floats(const formats::Safetensors& file, const char* name,
                          std::vector<uint64_t> shape) {
  const formats::SafetensorsTensor& t = file.tensor(name);
  if (t.dtype != formats::Dtype::kF32) {
    throw Error(ErrorKind::kUnsupported,
                file.name() + ": tensor " + name + " is not F32; save the filter in F32");
  }
  if (t.shape != shape) {
    throw Error(ErrorKind::kBadFile, file.name() + ": tensor " + name +
                                         " has not the shape of a filter for blocks of " +
                                         std::to_string(shape.front()) + "; train it again");
  }
  std::vector<float> out(t.data.size() / sizeof(float));
  std::memcpy(out.data(), t.data.data(), t.data.size());
  return out;
}

}  // namespace

FilterWeights FilterWeights::read(const std::filesystem::path& path) {
  return from(formats::Safetensors::open(path));
}

FilterWeights FilterWeights::from(const formats::Safetensors& file) {
  FilterWeights w;
  const auto& bias = file.tensor("l1.bias");
  if (bias.shape.size() != 1 || bias.shape[0] < 1 || bias.shape[0] > 4096) {
    throw Error(
        ErrorKind::kBadFile,
        file.name() + ": tensor l1.bias is no vector of a block's length; train the filter again");
  }
  const uint64_t n = bias.shape[0];
  w.block = int(n);
  w.w1 = floats(file, "l1.weight", {n, n});
  w.b1 = floats(file, "l1.bias", {n});
  w.w2 = floats(file, "l2.weight", {n, n});
  w.b2 = floats(file, "l2.bias", {n});
  if (const auto it = file.metadata().find("activation"); it != file.metadata().end()) {
    if (it->second != "relu" && it->second != "none") {
      throw Error(ErrorKind::kUnsupported,
                  file.name() + ": activation " + it->second + " is not known; use relu or none");
    }
    w.relu = it->second == "relu";
  }
  return w;
}

std::vector<float> FilterWeights::operator()(std::span<const float> probabilities) const {
  const auto linear = [&](const std::vector<float>& w, const std::vector<float>& b,
                          std::span<const float> x) {
    std::vector<float> y(b);
    for (int o = 0; o < block; ++o) {
      for (int i = 0; i < block; ++i)
        y[size_t(o)] = std::fma(w[size_t(o * block + i)], x[size_t(i)], y[size_t(o)]);
    }
    return y;
  };
  std::vector<float> hidden = linear(w1, b1, probabilities);
  if (relu) {
    for (float& h : hidden) h = std::max(h, 0.0f);
  }
  return linear(w2, b2, hidden);
}

LearnedFilter::LearnedFilter(FilterWeights weights, float accept) : weights_(std::move(weights)) {
  // sigmoid(z) > a is z > ln(a / (1 - a)).
  cut_ = accept >= 1.0f ? INFINITY : float(std::log(double(accept) / (1.0 - double(accept))));
}

LearnedFilter::LearnedFilter(const PolicyOptions& options, int block)
    : LearnedFilter(
          [&] {
            if (options.filter.empty()) {
              throw Error(ErrorKind::kUsage,
                          "policy learned: needs a trained filter; give option filter=FILE");
            }
            return FilterWeights::read(options.filter);
          }(),
          options.accept) {
  if (weights_.block != block) {
    throw Error(ErrorKind::kUsage,
                "policy learned: " + options.filter + " was trained for blocks of " +
                    std::to_string(weights_.block) + ", not of " + std::to_string(block) +
                    "; set block_length or use another filter");
  }
}

std::vector<int> LearnedFilter::choose(const Step& step, std::vector<Prediction>& predictions) {
  // A block that was cut short counts as certain where it is no more.
  std::vector<float> c(size_t(weights_.block), 1.0f);
  const int first = predictions.empty() ? 0 : predictions.front().position;
  for (const Prediction& p : predictions) {
    if (p.position - first < weights_.block) c[size_t(p.position - first)] = p.probability;
  }
  const std::vector<float> z = weights_(c);
  const std::vector<float> s = scores(predictions, Order::kConfidence, {}, step.index);
  return best_and_accepted(predictions, ranked(predictions, s), step.least, [&](size_t i) {
    const size_t at = size_t(predictions[i].position - first);
    return at < z.size() && z[at] > cut_;
  });
}

}  // namespace tutti::decode::diffusion
