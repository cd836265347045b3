// Inverse frequencies of rotary embeddings from a model's stated base and scaling. Sources: Su et
// al., "RoFormer"; Peng et al., "YaRN"; the Llama 3.1 release; computed in fp32 in the order
// transformers uses, so that angles agree with it at long positions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "models/config.h"

namespace tutti::models {

// How the frequencies of a model trained on a shorter context are stretched.
struct RopeScaling {
  enum Kind { kNone, kLinear, kLlama3, kYarn, kDynamic };
  Kind kind = kNone;
  double factor = 1.0;
  int original_context = 0;                              // trained length: llama3, YaRN, dynamic
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // YaRN: turns over the trained length
  bool truncate = true;                                  // YaRN: whole dimensions as ramp borders
  std::optional<double> attention_factor;                // YaRN: given instead of derived
  std::optional<double> mscale, mscale_all_dim;          // YaRN: derive the factor from these two
};

struct RopeParameters {
  int dims = 0;  // rotated dimensions of a head, even
  double base = 10000.0;
  int context_length = 0;  // the length the model states
  RopeScaling scaling;
};

// The scaling a file names: "default", "none", "linear", "llama3", "yarn", "dynamic". Throws
// Error(kUnsupported) that starts with `place` and names any other ("longrope", "mrope", ...).
RopeScaling::Kind rope_scaling_kind(std::string_view name, const std::string& place);

// Dynamic NTK changes every frequency as a sequence grows beyond the trained length, so cached keys
// would have to change too. Here the base is fixed once, for `context_length`: equal to
// transformers while a sequence is within the trained length (when the file states no other
// length), and to its last update when a sequence of exactly context_length tokens is read at once.
// Throws Error(kBadFile) starting with `place` when a parameter makes no sense.
Rope make_rope(const RopeParameters& parameters, const std::string& place);

// Divides frequency i by factors[i] (GGUF's rope_freqs.weight). Throws Error(kBadFile) when the
// counts differ or a factor is not a positive number.
void divide_frequencies(Rope& rope, std::span<const float> factors, const std::string& place);

}  // namespace tutti::models
