#include "models/linear_map.h"

#include <span>
#include <string>
#include <utility>

#include "base/error.h"

namespace tutti::models {

std::shared_ptr<const LinearMap> LinearMap::make(int width, std::vector<float> weight,
                                                 std::vector<float> bias) {
  if (width <= 0 || weight.size() != size_t(width) * size_t(width) ||
      (!bias.empty() && bias.size() != size_t(width))) {
    throw Error(ErrorKind::kUsage, "linear map: " + std::to_string(weight.size()) +
                                       " weights and " + std::to_string(bias.size()) +
                                       " biases do not make a square map of " +
                                       std::to_string(width));
  }
  auto map = std::make_shared<LinearMap>();
  map->width = width;
  map->packed = tensor::Matrix::pack(tensor::Type::kF32, std::as_bytes(std::span(weight)), width,
                                     width, tensor::Arithmetic::kExactF32);
  map->weight = std::move(weight);
  map->bias = std::move(bias);
  return map;
}

}  // namespace tutti::models
