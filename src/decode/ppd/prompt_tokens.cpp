#include "decode/ppd/prompt_tokens.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/half.h"
#include "formats/json_text.h"
#include "formats/safetensors.h"

namespace tutti::decode::ppd {

namespace {

namespace fs = std::filesystem;
constexpr int kMost = 64;
constexpr float kGreatest = 1e9f;  // the sum of their squares in a norm stays finite

[[noreturn]] void unsupported(const fs::path& file, const std::string& what) {
  throw Error(ErrorKind::kUnsupported, file.string() + ": " + what);
}

std::vector<float> floats_of(const formats::SafetensorsTensor& t, const fs::path& file) {
  const size_t n = size_t(t.elements());
  std::vector<float> out(n);
  const auto halves = [&](auto widened) {
    for (size_t i = 0; i < n; ++i) {
      uint16_t bits;
      std::memcpy(&bits, t.data.data() + 2 * i, 2);
      out[i] = widened(bits);
    }
  };
  switch (t.dtype) {
    case formats::Dtype::kF32:
      std::memcpy(out.data(), t.data.data(), n * sizeof(float));
      break;
    case formats::Dtype::kF16:
      halves([](uint16_t bits) { return half_to_float(bits); });
      break;
    case formats::Dtype::kBF16:
      halves([](uint16_t bits) { return bfloat16_to_float(bits); });
      break;
    default:
      unsupported(file, "tensor " + t.name + " is not F32, F16 or BF16; save it in one of these");
  }
  for (const float x : out) {
    if (!(std::fabs(x) <= kGreatest))
      throw Error(ErrorKind::kBadFile,
                  file.string() + ": tensor " + t.name +
                      " holds a value that is not finite, or beyond 1e9; train it again");
  }
  return out;
}

// A number of the configuration, or `otherwise` where it has none.
int64_t number(const nlohmann::json& config, const char* key, int64_t otherwise,
               const fs::path& file) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_number_integer())
    throw Error(ErrorKind::kBadFile, file.string() + ": " + key + " is no whole number");
  return found->get<int64_t>();
}

bool set(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_boolean() && found->get<bool>();
}

void check_config(const nlohmann::json& config, const fs::path& file) {
  if (!config.is_object())
    throw Error(ErrorKind::kBadFile, file.string() + ": is no object; give a folder of peft's");
  if (const auto type = config.find("peft_type"); type != config.end() && *type != "PROMPT_TUNING")
    unsupported(file, "peft_type is " + type->dump() + ", and ppd takes \"PROMPT_TUNING\"");
  const int64_t each = number(config, "virtual_tokens_per_special_token", 1, file);
  if (each != 1) {
    unsupported(file,
                "has " + std::to_string(each) +
                    " virtual tokens per prompt token (virtual_tokens_per_special_token); only 1 "
                    "can be decoded with");
  }
  if (set(config, "use_prefix_tuning"))
    unsupported(file, "use_prefix_tuning: prefixes are not read; train without them");
  if (set(config, "use_custom_lm_head"))
    unsupported(file, "use_custom_lm_head: a head of its own is not read; train without it");
}

const formats::SafetensorsTensor& only_matrix(const formats::Safetensors& weights,
                                              const fs::path& file) {
  const formats::SafetensorsTensor* found = weights.find("prompt_embeddings");
  for (const auto& t : weights.tensors()) {
    if (found || t.shape.size() != 2) continue;
    if (weights.tensors().size() > 1) break;
    found = &t;
  }
  if (!found || found->shape.size() != 2 || found->shape[0] < 1 || found->shape[1] < 1) {
    throw Error(ErrorKind::kBadFile,
                file.string() + ": has no matrix prompt_embeddings, nor one matrix alone");
  }
  return *found;
}

}  // namespace

PromptTokens PromptTokens::read(const fs::path& folder) {
  const fs::path config_file = folder / "adapter_config.json",
                 weights_file = folder / "adapter_model.safetensors";
  const nlohmann::json config =
      formats::parse_json(read_file(config_file, size_t(1) << 20), config_file.string());
  check_config(config, config_file);
  if (!fs::exists(weights_file) && fs::exists(folder / "adapter_model.bin")) {
    unsupported(folder / "adapter_model.bin",
                "pickled weights are not read; save the adapter as safetensors");
  }
  const formats::Safetensors weights = formats::Safetensors::open(weights_file);
  const formats::SafetensorsTensor& matrix = only_matrix(weights, weights_file);
  const auto count = int64_t(matrix.shape[0]);
  if (count > kMost)
    unsupported(weights_file, std::to_string(count) + " prompt tokens; at most " +
                                  std::to_string(kMost) + " are taken");
  for (const char* key : {"num_virtual_tokens", "num_special_tokens"}) {
    if (const int64_t said = number(config, key, count, config_file); said != count) {
      throw Error(ErrorKind::kBadFile,
                  config_file.string() + ": " + key + " is " + std::to_string(said) + ", but " +
                      weights_file.filename().string() + " holds " + std::to_string(count));
    }
  }
  PromptTokens out;
  const std::vector<float> all = floats_of(matrix, weights_file);
  const auto hidden = std::ptrdiff_t(matrix.shape[1]);
  for (auto it = all.begin(); it != all.end(); it += hidden)
    out.vectors.emplace_back(it, it + hidden);
  if (const auto base = config.find("base_model_name_or_path");
      base != config.end() && base->is_string())
    out.base = *base;
  return out;
}

void PromptTokens::check(const models::Config& config) const {
  if (vectors.front().size() == size_t(config.hidden)) return;
  throw Error(ErrorKind::kUsage, "prompt tokens: have " + std::to_string(vectors.front().size()) +
                                     " numbers each, but the model's hidden size is " +
                                     std::to_string(config.hidden) +
                                     (base.empty() ? "" : "; they were trained on " + base) +
                                     "; give those of this model");
}

}  // namespace tutti::decode::ppd
