// Trained prompt tokens (PPD, sheet 40): vectors that enter a model behind a token, the j-th to say
// what comes j tokens further on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/config.h"

namespace tutti::decode::ppd {

struct PromptTokens {
  std::vector<std::vector<float>> vectors;  // [m][hidden]
  std::string base;  // the model that they were trained on, as their folder says

  // A folder as the peft library stores prompt tuning: adapter_config.json and
  // adapter_model.safetensors with one tensor [m, hidden]. Throws Error(kNotFound | kBadFile |
  // kUnsupported), the last for several virtual tokens per prompt token, prefixes and heads of
  // their own.
  static PromptTokens read(const std::filesystem::path& folder);
  // Throws Error(kUsage) when they are not of this model's hidden size.
  void check(const models::Config& config) const;

  int count() const { return int(vectors.size()); }
};

}  // namespace tutti::decode::ppd
