// The weights of a network in training: leaves of the graph, by their names in the saved folder.
#pragma once

#include <string>
#include <vector>

#include "models/aten/tensor_ops.h"
#include "train/model_shape.h"
#include "train/recipe.h"

namespace tutti::train {

struct Parameter {
  std::string name;
  at::Tensor tensor;
  bool decays;  // a matrix: weight decay moves it
};

// Matrices normal with the recipe's deviation, norms 1, biases 0. Element i of a tensor is a
// function of (seed, the tensor's name, i).
models::TensorWeights initial_weights(const ShapedConfig& shaped, const ModelRecipe& recipe,
                                      uint64_t seed);

// Standard normal numbers times `deviation`, likewise.
at::Tensor normal_tensor(uint64_t seed, const std::string& name, at::IntArrayRef shape,
                         double deviation);

// Every tensor that is there, in the order of the network.
std::vector<Parameter> parameters_of(const models::TensorWeights& weights,
                                     const models::TensorLayout& layout);

}  // namespace tutti::train
