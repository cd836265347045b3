// Methods over masked models. `diffusion`: any commit policy with any cache. `freedave`: Free
// Draft-and-Verification (Wu, Zhang, arXiv 2510.00294), the text of a policy with fewer forwards.
#pragma once

#include <memory>

#include "decode/diffusion/policy.h"
#include "engine/task.h"

namespace tutti::decode {
class Generation;
Task<void> diffusion_method(Generation& g);
Task<void> freedave_method(Generation& g);

namespace diffusion {
// `diffusion` with this policy in place of the one that the options name.
Task<void> denoise(Generation& g, std::unique_ptr<Policy> policy);
}  // namespace diffusion
}  // namespace tutti::decode
