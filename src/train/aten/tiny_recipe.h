// A small recipe for tests, and tensors compared by their bits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "train/recipe.h"

namespace tutti::train {

inline nlohmann::json tiny(const std::string& family = "llada",
                           const std::string& loss = "masked") {
  nlohmann::json recipe = nlohmann::json::parse(R"({
    "name": "tiny", "seed": 5,
    "model": {"layers": 2, "hidden": 64, "heads": 2, "intermediate": 96, "context": 48, "deviation": 0.1},
    "tokenizer": {"characters": "0123456789+= "},
    "data": {"generator": "addition", "length": 40},
    "optimiser": {"learning_rate": 0.003, "weight_decay": 0.01, "clip": 1.0},
    "schedule": {"kind": "cosine", "warmup": 3},
    "steps": 20, "sequences": 4
  })");
  recipe["model"]["family"] = family;
  recipe["loss"] = {{"kind", loss}};
  return recipe;
}

inline Recipe parsed(const nlohmann::json& recipe) {
  return parse_recipe(recipe.dump(), "tiny.json", "");
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.data_ptr(), y.data_ptr(), size_t(x.nbytes())) == 0;
}

}  // namespace tutti::train
