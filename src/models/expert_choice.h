// Which experts a row uses, and how much each weighs.
#pragma once

#include <span>

#include "models/config.h"
#include "tensor/kernels.h"

namespace tutti::models {

// `scores` [count]: the router's products, which become scores. `bias` [count], or empty. `choice`
// [count] is scratch. Fills `ids` and `weights` [used], by descending (biased) score; ties go to
// the lower index, of groups as of experts.
void choose_experts(const tensor::Kernels& kernels, const Experts& experts,
                    std::span<const float> bias, std::span<float> scores, std::span<float> choice,
                    std::span<int> ids, std::span<float> weights);

}  // namespace tutti::models
