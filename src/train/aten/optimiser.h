// LibTorch's optimisers over named parameters, with a state that can be saved and put back bit for
// bit.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "train/aten/parameters.h"

namespace tutti::train {

using NamedTensors = std::map<std::string, at::Tensor>;

class Optimiser {
 public:
  // The parameters become leaves that gather gradients. Weight decay moves those that ask for it
  // only.
  Optimiser(const OptimiserRecipe& recipe, const std::vector<Parameter>& parameters);
  ~Optimiser();

  // Moves the parameters by their gradients and clears these. Returns the norm of all gradients
  // together before it is clipped.
  double step(double learning_rate);

  // The running averages, "<parameter>.exp_avg" and the like; empty before the first step.
  NamedTensors state() const;
  // What state() gave. Throws Error(kBadFile) naming a tensor of another shape.
  void restore(const NamedTensors& state);

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace tutti::train
